#pragma once
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cctype>
#include <map>
#include <string>
#include <utility>

#include "base/address.h"
#include "base/unique_fd.h"

// A client of the kind that people and probes use: writes bytes, reads an answer.
namespace zt::ztunnel::testing {

struct Answer {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

class Client {
 public:
  // `from`: an address of this host to come from.
  explicit Client(const SocketAddress& address, const std::string& from = {}) {
    sockaddr_storage storage{};
    fd_.reset(::socket(address.ip.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!from.empty()) {
      const socklen_t length = SocketAddress{*IpAddress::parse(from), 0}.to_sockaddr(storage);
      REQUIRE(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0);
    }
    const socklen_t length = address.to_sockaddr(storage);
    const timeval limit{10, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0;
  }
  [[nodiscard]] bool connected() const { return connected_; }

  void send(std::string_view bytes) {
    REQUIRE(::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  }
  // One answer, with its whole body (chunks joined). Status 0: the connection ended before one came.
  Answer receive(bool head = false) {
    Answer answer;
    if (!fill_until([&] { return buffer_.find("\r\n\r\n") != std::string::npos; })) return answer;
    const auto end = buffer_.find("\r\n\r\n");
    const bool old = buffer_.starts_with("HTTP/1.0");
    answer.status = std::stoi(buffer_.substr(buffer_.find(' ') + 1, 3));
    for (size_t at = buffer_.find("\r\n") + 2; at < end;) {
      const auto line_end = buffer_.find("\r\n", at);
      const auto colon = buffer_.find(':', at);
      std::string name = buffer_.substr(at, colon - at);
      std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      answer.headers[name] = buffer_.substr(colon + 2, line_end - colon - 2);
      at = line_end + 2;
    }
    buffer_.erase(0, end + 4);
    if (head) return answer;
    if (answer.headers.contains("transfer-encoding")) {
      for (;;) {
        REQUIRE(fill_until([&] { return buffer_.find("\r\n") != std::string::npos; }));
        const size_t size = std::stoul(buffer_, nullptr, 16);
        const size_t start = buffer_.find("\r\n") + 2;
        REQUIRE(fill_until([&] { return buffer_.size() >= start + size + 2; }));
        answer.body += buffer_.substr(start, size);
        buffer_.erase(0, start + size + 2);
        if (size == 0) return answer;
      }
    }
    if (old && !answer.headers.contains("content-length")) {  // RFC 9112 §6.3: the end of the connection ends it
      fill_until([] { return false; });
      answer.body = std::exchange(buffer_, {});
      return answer;
    }
    const size_t length = answer.headers.contains("content-length") ? std::stoul(answer.headers["content-length"]) : 0;
    REQUIRE(fill_until([&] { return buffer_.size() >= length; }));
    answer.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
    return answer;
  }
  // Did the peer end the connection, with nothing more to read?
  bool at_end() {
    char byte = 0;
    return buffer_.empty() && ::recv(fd_.get(), &byte, 1, 0) <= 0 && errno != EAGAIN;
  }

 private:
  template <class Done>
  bool fill_until(Done done) {
    while (!done()) {
      char bytes[65536];
      const ssize_t length = ::recv(fd_.get(), bytes, sizeof bytes, 0);
      if (length <= 0) return false;
      buffer_.append(bytes, static_cast<size_t>(length));
    }
    return true;
  }
  UniqueFd fd_;
  bool connected_ = false;
  std::string buffer_;
};

inline Answer request(const SocketAddress& address, const std::string& method, const std::string& target,
                      const std::string& headers = {}) {
  Client client(address);
  REQUIRE(client.connected());
  client.send(method + " " + target + " HTTP/1.1\r\nhost: x\r\n" + headers + "\r\n");
  return client.receive(method == "HEAD");
}

}  // namespace zt::ztunnel::testing
