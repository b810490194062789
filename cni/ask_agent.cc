#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "cni/plugin.h"

namespace zt::cni {

namespace {

constexpr timeval kLimit{.tv_sec = 5, .tv_usec = 0};  // for each of connecting, sending and reading
constexpr size_t kMaxAnswer = 64 * 1024;

AgentAnswer unasked(std::string_view doing) { return {std::nullopt, std::string(doing) + ": " + std::strerror(errno)}; }

struct Socket {
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Socket() = default;
  Socket(const Socket&) = delete;
  ~Socket() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

AgentAnswer ask_agent(const std::string& path, const std::string& body, std::string_view what) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return {std::nullopt, "the path is too long"};
  std::memcpy(address.sun_path, path.data(), path.size());
  const Socket socket;
  if (socket.fd < 0) return unasked("socket");
  ::setsockopt(socket.fd, SOL_SOCKET, SO_RCVTIMEO, &kLimit, sizeof kLimit);
  ::setsockopt(socket.fd, SOL_SOCKET, SO_SNDTIMEO, &kLimit, sizeof kLimit);
  if (::connect(socket.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return unasked("connect");
  const std::string request =
      std::string(what) + " HTTP/1.1\r\nHost: unix\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t n = ::send(socket.fd, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return unasked("send");
    sent += static_cast<size_t>(n);
  }
  std::string answer;
  std::array<char, 4096> piece;
  while (answer.size() < kMaxAnswer) {
    const ssize_t n = ::recv(socket.fd, piece.data(), piece.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return unasked("no answer");
    if (n == 0) break;
    answer.append(piece.data(), static_cast<size_t>(n));
  }
  // "HTTP/1.1 200 OK"
  unsigned status = 0;
  const auto space = answer.find(' ');
  const auto end = answer.find("\r\n\r\n");
  if (!answer.starts_with("HTTP/1.") || space == std::string::npos || end == std::string::npos ||
      std::from_chars(answer.data() + space + 1, answer.data() + std::min(answer.size(), space + 4), status).ec != std::errc{}) {
    return {std::nullopt, "what answers is no node agent"};
  }
  return {status, answer.substr(end + 4)};
}

}  // namespace zt::cni
