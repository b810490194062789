#pragma once
#include <sys/signalfd.h>

#include <csignal>
#include <functional>

#include "base/event_loop.h"

namespace zt {

// SIGTERM and SIGINT as calls on the control thread. Make it before any thread is started: threads inherit the mask.
class Signals final : private Watcher {
 public:
  explicit Signals(std::function<void(int)> handler) : handler_(std::move(handler)) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    fd_.reset(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  }
  Result<> watch(EventLoop& loop) { return loop.watch(fd_.get(), *this); }

 private:
  void on_ready(uint32_t) noexcept override {
    signalfd_siginfo info;
    while (read(fd_.get(), &info, sizeof info) == sizeof info) handler_(static_cast<int>(info.ssi_signo));
  }
  std::function<void(int)> handler_;
  UniqueFd fd_;
};

}  // namespace zt
