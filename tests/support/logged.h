#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <thread>

#include "base/log.h"
#include "base/unique_fd.h"

namespace zt::testing {

// What the log writes while `act` runs.
inline std::string logged(log::Format format, const std::function<void()>& act) {
  int fds[2];
  REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
  UniqueFd reader(fds[0]);
  UniqueFd writer(fds[1]);
  std::string text;
  std::thread collector([&] {
    char buffer[65536];
    for (ssize_t n; (n = ::read(reader.get(), buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  });
  log::start(writer.get(), format);
  act();
  log::stop();
  writer.reset();
  collector.join();
  return text;
}

}  // namespace zt::testing
