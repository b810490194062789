#pragma once
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <initializer_list>
#include <utility>

#include "base/event_loop.h"

namespace zt {

// Signals as calls on a loop's thread. Make it before any thread is started: threads inherit the mask, so the signals reach nobody
// but the loop. Outlives the loop. SIGPIPE is ignored from then on: a reader that goes away is no reason to end.
class Signals final : private Watcher {
 public:
  explicit Signals(std::initializer_list<int> numbers) {
    ::sigemptyset(&set_);
    for (const int number : numbers) ::sigaddset(&set_, number);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
  }
  // `handler` gets each signal's number. Once. kIo.
  Result<> watch(EventLoop& loop, std::function<void(int)> handler) {
    fd_.reset(::signalfd(-1, &set_, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd_) return fail_errno(Fault::kIo, "signalfd");
    handler_ = std::move(handler);
    return loop.watch(fd_.get(), *this);
  }

 private:
  void on_ready(uint32_t) noexcept override {
    signalfd_siginfo info{};
    while (::read(fd_.get(), &info, sizeof info) == sizeof info) handler_(static_cast<int>(info.ssi_signo));
  }
  sigset_t set_{};
  std::function<void(int)> handler_;
  UniqueFd fd_;
};

}  // namespace zt
