// The server of every measurement: it does what the first 16 bytes of a connection say (load.h, Hello).
#include <algorithm>
#include <cerrno>
#include <memory>

#include "bench/load.h"

namespace load {
namespace {

struct Connection {
  int fd = -1;
  Hello hello;
  size_t hello_bytes = 0;
  uint64_t received = 0;
  uint64_t to_send = 0;  // still owed to the client
  bool endless = false;  // kSend without an amount
  bool read_done = false;
  uint32_t events = EPOLLIN;
};

class Server {
 public:
  explicit Server(uint16_t port) : buffer_(kChunk) {
    listener_ = ::socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener_ < 0) die("socket");
    const int one = 1;
    const int zero = 0;
    ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    ::setsockopt(listener_, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
    ::setsockopt(listener_, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof(one));
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) die("bind");
    if (::listen(listener_, 4096) != 0) die("listen");
    epoll_.add(listener_, EPOLLIN, nullptr);
  }

  [[noreturn]] void run() {
    for (;;) {
      for (const epoll_event& event : epoll_.wait(-1)) {
        if (event.data.ptr == nullptr) {
          accept_all();
          continue;
        }
        auto* connection = static_cast<Connection*>(event.data.ptr);
        if (!turn(*connection, event.events)) {
          ::close(connection->fd);
          delete connection;
        }
      }
    }
  }

 private:
  void accept_all() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      auto connection = std::make_unique<Connection>();
      connection->fd = fd;
      Connection* const owned = connection.release();  // by the event loop; deleted when turn() says that it is over
      epoll_.add(fd, EPOLLIN, owned);
    }
  }

  // False when the connection is over.
  bool turn(Connection& c, uint32_t events) {
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !c.read_done && !read_turn(c)) return false;
    if ((events & (EPOLLHUP | EPOLLERR)) != 0 && c.read_done) return false;
    if ((c.to_send > 0 || c.endless) && !write_turn(c)) return false;
    if (finished(c)) return false;
    uint32_t wanted = c.to_send > 0 || c.endless ? static_cast<uint32_t>(EPOLLOUT) : 0u;
    const bool stalled = c.hello.mode == Mode::kHold && c.hello_bytes == sizeof(Hello);
    if (!c.read_done && !stalled) wanted |= EPOLLIN;
    if (wanted != c.events) {
      c.events = wanted;
      epoll_.change(c.fd, wanted, &c);
    }
    return true;
  }

  static bool finished(const Connection& c) {
    if (c.to_send > 0 || c.endless) return false;
    if (c.read_done) return true;
    return c.hello_bytes == sizeof(Hello) && c.hello.mode == Mode::kSend && c.hello.keep == 0;
  }

  bool read_turn(Connection& c) {
    if (c.hello_bytes < sizeof(Hello)) {
      const ssize_t got = ::recv(c.fd, reinterpret_cast<char*>(&c.hello) + c.hello_bytes, sizeof(Hello) - c.hello_bytes, 0);
      if (got <= 0) return got < 0 && errno == EAGAIN;
      c.hello_bytes += static_cast<size_t>(got);
      if (c.hello_bytes < sizeof(Hello)) return true;
      if (c.hello.mode == Mode::kSend) {
        c.to_send = c.hello.amount;
        c.endless = c.hello.amount == 0;
      }
      if (c.hello.mode == Mode::kHold) return true;
    }
    const ssize_t got = ::recv(c.fd, buffer_.data(), buffer_.size(), 0);
    if (got < 0) return errno == EAGAIN;
    if (got == 0) {
      c.read_done = true;
      c.endless = false;
      if (c.hello.mode == Mode::kSink) return ::send(c.fd, &c.received, sizeof(c.received), MSG_NOSIGNAL) > 0 && false;
      return true;
    }
    const uint64_t before = c.received;
    c.received += static_cast<uint64_t>(got);
    if (c.hello.mode == Mode::kEcho && c.hello.request > 0) {
      c.to_send += (c.received / c.hello.request - before / c.hello.request) * c.hello.amount;
    }
    return true;
  }

  bool write_turn(Connection& c) {
    const size_t size = c.endless ? buffer_.size() : static_cast<size_t>(std::min<uint64_t>(c.to_send, buffer_.size()));
    const ssize_t sent = ::send(c.fd, buffer_.data(), size, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    if (!c.endless) c.to_send -= static_cast<uint64_t>(sent);
    return true;
  }

  int listener_ = -1;
  Epoll epoll_;
  std::vector<char> buffer_;  // what is read lands here, what is sent comes from here; nobody looks at it
};

}  // namespace

int serve(Options& options) {
  Server server(static_cast<uint16_t>(options.number("port", 5001)));
  options.finish();
  std::puts("ready");
  std::fflush(stdout);
  server.run();
}

}  // namespace load
