#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "identity/openssl_ptr.h"
#include "tests/support/istiod/test_pki.h"

// An API server that says what the test tells it to, byte for byte, over real TLS on 127.0.0.1.
namespace zt::testing {

class ApiServer {
 public:
  // One connection, from its request on.
  class Connection {
   public:
    Connection(SSL* ssl, std::string head, std::string body) : ssl_(ssl), head(std::move(head)), body(std::move(body)) {}
    // False: the client has gone.
    bool send(std::string_view text) const {
      while (!text.empty()) {
        const int n = ::SSL_write(ssl_, text.data(), static_cast<int>(std::min<size_t>(text.size(), 1 << 20)));
        if (n <= 0) return false;
        text.remove_prefix(static_cast<size_t>(n));
      }
      return true;
    }
    bool chunk(std::string_view text) const {
      char size[32];
      std::snprintf(size, sizeof size, "%zx\r\n", text.size());
      return send(size) && send(text) && send("\r\n");
    }
    bool answer(std::string_view status, std::string_view json, std::string_view headers = "") const {
      return send("HTTP/1.1 " + std::string(status) + "\r\n" + std::string(headers) +
                  "Content-Length: " + std::to_string(json.size()) + "\r\nConnection: close\r\n\r\n" + std::string(json));
    }
    bool begin_watch() const { return send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"); }
    // Until the client goes, or the server is taken down.
    void hold() const {
      char byte;
      while (::SSL_read(ssl_, &byte, 1) > 0) {
      }
    }
    void say_nothing_and_hold() const { hold(); }

   private:
    SSL* ssl_;

   public:
    std::string head;  // with the request line
    std::string body;
    [[nodiscard]] std::string target() const {
      const auto from = head.find(' ') + 1;
      return head.substr(from, head.find(' ', from) - from);
    }
    [[nodiscard]] bool is_watch() const { return target().find("watch=true") != std::string::npos; }
  };
  // Runs on a thread of the connection; when it returns, the connection is closed. `number`: of the request, from 0.
  using Handler = std::function<void(Connection&, size_t number)>;

  ApiServer(const test::ServerIdentity& identity, Handler handler)
      : handler_(std::move(handler)), context_(::SSL_CTX_new(::TLS_server_method())) {
    ::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes to clients that have gone
    const auto use = [](std::string_view pem) {
      return identity::BioPtr(::BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    };
    const auto certificate = use(identity.certificate_pem);
    const identity::X509Ptr x509(::PEM_read_bio_X509(certificate.get(), nullptr, nullptr, nullptr));
    REQUIRE(::SSL_CTX_use_certificate(context_, x509.get()) == 1);
    const auto key_pem = use(identity.key_pem);
    const identity::PkeyPtr key(::PEM_read_bio_PrivateKey(key_pem.get(), nullptr, nullptr, nullptr));
    REQUIRE(::SSL_CTX_use_PrivateKey(context_, key.get()) == 1);
    listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_.get(), 64) == 0);
    socklen_t size = sizeof address;
    REQUIRE(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept(); });
  }
  ~ApiServer() {
    stopping_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    for (auto& thread : threads_) thread.join();
    ::SSL_CTX_free(context_);
  }
  ApiServer(const ApiServer&) = delete;

  [[nodiscard]] uint16_t port() const { return port_; }
  // The requests so far, as "GET /path?query".
  [[nodiscard]] std::vector<std::string> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  [[nodiscard]] size_t handshakes_failed() const { return failed_; }

 private:
  void accept() {
    while (!stopping_) {
      UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) continue;
      const std::lock_guard lock(mutex_);
      open_.push_back(socket.get());
      threads_.emplace_back([this, fd = socket.release()] { serve(UniqueFd(fd)); });
    }
  }
  void serve(UniqueFd fd) {
    SSL* const ssl = ::SSL_new(context_);
    ::SSL_set_fd(ssl, fd.get());
    if (::SSL_accept(ssl) == 1) {
      if (auto request = read_request(ssl); !request.empty()) {
        const auto split = request.find("\r\n\r\n") + 4;
        Connection connection(ssl, request.substr(0, split), request.substr(split));
        size_t number = 0;
        {
          const std::lock_guard lock(mutex_);
          number = requests_.size();
          requests_.push_back(connection.head.substr(0, connection.head.find(" HTTP")));
        }
        handler_(connection, number);
      }
      ::SSL_shutdown(ssl);
    } else {
      ++failed_;
    }
    ::SSL_free(ssl);
    const std::lock_guard lock(mutex_);
    std::erase(open_, fd.get());
    fd.reset();
  }
  static std::string read_request(SSL* ssl) {
    std::string text;
    char buffer[4096];
    size_t needed = std::string::npos;
    while (text.size() < needed) {
      const int n = ::SSL_read(ssl, buffer, sizeof buffer);
      if (n <= 0) return {};
      text.append(buffer, static_cast<size_t>(n));
      if (const auto end = text.find("\r\n\r\n"); end != std::string::npos && needed == std::string::npos) {
        const auto length = text.find("Content-Length: ");
        needed = end + 4 + (length < end ? std::stoul(text.substr(length + 16)) : 0);
      }
    }
    return text;
  }

  const Handler handler_;
  SSL_CTX* context_;
  UniqueFd listener_;
  uint16_t port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<size_t> failed_ = 0;
  mutable std::mutex mutex_;
  std::vector<int> open_;              // guarded by mutex_
  std::vector<std::string> requests_;  // guarded by mutex_
  std::vector<std::thread> threads_;   // grown by the acceptor alone
  std::thread acceptor_;
};

}  // namespace zt::testing
