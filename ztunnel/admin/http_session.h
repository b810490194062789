#pragma once
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "ztunnel/admin/http_server.h"

namespace zt::ztunnel {

class HttpSession;

// What one call of HttpServer::listen() serves, on one address or on one of each family.
struct HttpService {
  std::string component;
  HttpHandler handler;
};

// What a session needs of its server. Server's thread, but post().
class HttpSessionOwner {
 public:
  [[nodiscard]] virtual const HttpLimits& limits() const = 0;
  [[nodiscard]] virtual bool draining() const = 0;
  // Counts how often a session began to wait for a request.
  virtual uint64_t next_rest() = 0;
  virtual void remove(const std::shared_ptr<HttpSession>& session) = 0;
  // Runs `fn` on the server's thread.
  virtual void post(std::move_only_function<void()> fn) = 0;

 protected:
  ~HttpSessionOwner() = default;
};

// One client's connection: reads a request, waits for its answer, writes it, and again. Server's thread; answers come from any.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(const std::shared_ptr<HttpSessionOwner>& owner, boost::asio::ip::tcp::socket socket,
              boost::asio::ip::address source, std::shared_ptr<const HttpService> service)
      : weak_owner_(owner),
        owner_(*owner),
        stream_(std::move(socket)),
        wait_(stream_.get_executor()),
        source_(std::move(source)),
        service_(std::move(service)) {}

  [[nodiscard]] const HttpService& service() const { return *service_; }
  [[nodiscard]] const boost::asio::ip::address& source() const { return source_; }
  [[nodiscard]] uint64_t rest() const { return rest_; }
  [[nodiscard]] bool being_served() const { return being_served_; }  // has a whole request

  void read();
  void answer(uint64_t request, HttpResponse response);
  // No further request: closes now if there is none under way.
  void drain() {
    if (!busy_) close();
    wait_.cancel();
  }
  void close();

 private:
  using Fields = boost::beast::http::response<boost::beast::http::empty_body>;

  void read_body();
  void dispatch();
  void refuse(const boost::system::error_code& error);
  void write_whole(std::string body);
  void write_pieces();
  bool next_piece();
  void write_piece();
  void finish();
  void linger();
  void linger_read();
  // Runs `next` if the operation went well, else the connection is over.
  template <class Next>
  auto then(Next next) {
    return [self = shared_from_this(), next](boost::system::error_code error, size_t) {
      if (error) return self->close();
      next(*self);
    };
  }

  const std::weak_ptr<HttpSessionOwner> weak_owner_;
  HttpSessionOwner& owner_;
  boost::beast::tcp_stream stream_;
  boost::asio::steady_timer wait_;  // for the next piece of an answer without end
  const boost::asio::ip::address source_;
  const std::shared_ptr<const HttpService> service_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  bool busy_ = false;  // between a request's arrival and the end of its answer
  bool being_served_ = false;
  uint64_t rest_ = 0;      // of the owner's, the last one
  uint64_t requests_ = 0;  // number of the current one: an answer counts for its own request only
  bool head_ = false;
  bool keep_alive_ = false;
  bool refused_ = false;  // the rest of the request has not been read
  unsigned version_ = 11;
  HttpResponse response_;
  std::optional<boost::beast::http::response<boost::beast::http::string_body>> whole_;
  std::optional<Fields> fields_;
  std::optional<boost::beast::http::response_serializer<boost::beast::http::empty_body>> serializer_;
  std::string piece_;
  bool ended_ = false;  // there is no further piece
};

}  // namespace zt::ztunnel
