#include "base/acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace zt {

namespace {
// Per turn: a burst of new connections must not hold up those that are there.
constexpr int kAcceptsPerTurn = 64;
constexpr std::chrono::milliseconds kFirstExhaustedWait{100};
constexpr std::chrono::milliseconds kMostExhaustedWait{800};
constexpr double kExhaustedSpread = 0.5;  // the listeners of all pods are out of descriptors together
}  // namespace

Acceptor::Acceptor(EventLoop& loop, UniqueFd listener, Accepted accepted, Failed failed)
    : loop_(loop),
      listener_(std::move(listener)),
      accepted_(std::move(accepted)),
      failed_(std::move(failed)),
      rest_(loop),
      exhausted_(kFirstExhaustedWait, kMostExhaustedWait, kExhaustedSpread, Backoff::any_random()) {}

Acceptor::~Acceptor() {
  loop_.cancel_deferred(*this);
  loop_.unwatch(listener_.get(), *this);
}

Result<> Acceptor::start() {
  ZT_TRY(loop_.watch(listener_.get(), *this));
  loop_.defer(*this);  // what queued up before the registration
  return {};
}

void Acceptor::rest(Clock::duration time) {
  rest_.start_after(time, [this] { accept_in_turn(); });
}

void Acceptor::accept_in_turn() {
  if (!rest_.armed() && accept_up_to(kAcceptsPerTurn, true)) loop_.defer(*this);
}

bool Acceptor::accept_some() { return accept_up_to(kAcceptsPerTurn, false); }

bool Acceptor::accept_up_to(int most, bool until_rest) {
  for (int i = 0; i < most; ++i) {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    UniqueFd fd(::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&storage), &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      exhausted_.reset();
      accepted_(std::move(fd), SocketAddress::from_sockaddr(storage));
      if (until_rest && rest_.armed()) return false;
      continue;
    }
    switch (errno) {
      case EAGAIN: return false;
      case EINTR:
      case ECONNABORTED:
      case EPROTO: continue;
      default:
        failed_(errno);
        rest(exhausted_.next());
        return false;
    }
  }
  return true;
}

}  // namespace zt
