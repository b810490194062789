#include "hbone/socket_transport.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace zt::hbone {

SocketTransport::~SocketTransport() { detach(); }

// The loop must forget the socket, not only we: the connection may live on in another process, and then its events would come here
// though our descriptor is closed.
void SocketTransport::detach() {
  if (std::exchange(user_, nullptr) != nullptr) loop_.unwatch(fd_.get(), *this);
}

Result<> SocketTransport::attach(TransportUser& user) {
  ZT_TRY(loop_.watch(fd_.get(), *this));
  user_ = &user;
  return {};
}

Transfer SocketTransport::read(std::span<uint8_t> room) {
  ssize_t n;
  do {
    n = ::recv(fd_.get(), room.data(), room.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n > 0) return {.state = Transfer::State::kDone, .bytes = static_cast<size_t>(n)};
  if (n == 0) return {.state = Transfer::State::kEnded};
  if (errno == EAGAIN || errno == EWOULDBLOCK) return {};
  return {.state = Transfer::State::kFailed, .error = errno};
}

Transfer SocketTransport::write(std::span<const uint8_t> bytes) {
  ssize_t n;
  do {
    n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return {.state = Transfer::State::kDone, .bytes = static_cast<size_t>(n)};
  if (errno == EAGAIN || errno == EWOULDBLOCK) return {};
  return {.state = Transfer::State::kFailed, .error = errno};
}

void SocketTransport::on_ready(uint32_t events) noexcept {
  user_->on_transport({.readable = (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0,
                       .writable = (events & EPOLLOUT) != 0,
                       .ending = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0});
}

}  // namespace zt::hbone
