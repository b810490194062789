#include "base/linux/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/unique_fd.h"
#include "tests/support/logged.h"

using namespace zt;

namespace {
struct Manager {
  UniqueFd fd{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  explicit Manager(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (path.front() == '@') address.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  ~Manager() { ::unsetenv("NOTIFY_SOCKET"); }
  [[nodiscard]] std::string told() const {
    char buffer[256];
    const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
    return n < 0 ? "nothing" : std::string(buffer, static_cast<size_t>(n));
  }
};
}  // namespace

TEST_CASE("the service manager is told by path or by abstract name, and nobody is if there is none") {
  const std::string path = std::filesystem::temp_directory_path() / ("zt-notify-" + std::to_string(getpid()));
  {
    const Manager manager(path);
    tell_service_manager("READY=1");
    CHECK(manager.told() == "READY=1");
  }
  std::filesystem::remove(path);
  const Manager abstract("@zt-notify-" + std::to_string(getpid()));
  tell_service_manager("STOPPING=1");
  CHECK(abstract.told() == "STOPPING=1");
  ::unsetenv("NOTIFY_SOCKET");
  tell_service_manager("READY=1");
  CHECK(abstract.told() == "nothing");
}

TEST_CASE("a service manager's address that cannot be is said and waited for by nobody") {
  const std::string bad = GENERATE(as<std::string>(), "relative", "/nowhere/at/all", std::string(200, '/'));
  ::setenv("NOTIFY_SOCKET", bad.c_str(), 1);
  const auto text = testing::logged(log::Format::kPlain, [] { tell_service_manager("READY=1"); });
  ::unsetenv("NOTIFY_SOCKET");
  CHECK_THAT(text, Catch::Contains("the service manager cannot be told"));
}
