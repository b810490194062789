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
      retry_(loop),
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

void Acceptor::on_ready(uint32_t) noexcept {
  if (accept_some()) loop_.defer(*this);
}
void Acceptor::on_turn_end() noexcept {
  if (accept_some()) loop_.defer(*this);
}

bool Acceptor::accept_some() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    UniqueFd fd(::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&storage), &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      exhausted_.reset();
      accepted_(std::move(fd), SocketAddress::from_sockaddr(storage));
      continue;
    }
    switch (errno) {
      case EAGAIN: return false;
      case EINTR:
      case ECONNABORTED:
      case EPROTO: continue;
      default:
        failed_(errno);
        retry_.start_after(exhausted_.next(), [this] { on_ready(EPOLLIN); });
        return false;
    }
  }
  return true;
}

}  // namespace zt
