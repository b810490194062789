#include "ztunnel/admin/http_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/write.hpp>
#include <ctime>
#include <utility>

#include "base/log.h"

namespace zt::ztunnel {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// Answers up to this size have a Content-Length; larger ones go out in chunks.
constexpr size_t kWholeAnswerBytes = 1u << 20;
constexpr size_t kLingerBytes = 4096;

log::Scope scope("http");

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[40];
  const size_t length = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text, length};
}

template <class Message>
void set_headers(Message& message, const HttpResponse& response, bool keep_alive) {
  message.keep_alive(keep_alive);
  if (!response.content_type.empty()) message.set("content-type", response.content_type);
  for (const auto& [name, value] : response.headers) message.set(name, value);
  message.set("date", http_date());
}

}  // namespace

void HttpSession::close() {
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
  stream_.socket().close(ignored);
  wait_.cancel();
  owner_.remove(shared_from_this());
}

void HttpSession::read() {
  if (owner_.draining()) return close();
  being_served_ = false;
  rest_ = owner_.next_rest();
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(owner_.limits().header_bytes));
  parser_->body_limit(owner_.limits().body_bytes);
  stream_.expires_after(owner_.limits().header_timeout);
  http::async_read_header(stream_, buffer_, *parser_, [self = shared_from_this()](error_code error, size_t) {
    if (error) return self->refuse(error);
    self->busy_ = true;
    self->read_body();
  });
}

void HttpSession::read_body() {
  stream_.expires_after(owner_.limits().body_timeout);
  http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](error_code error, size_t) {
    if (error) return self->refuse(error);
    self->dispatch();
  });
}

// What can still be said to a client whose request is malformed is said; then the connection ends.
void HttpSession::refuse(const error_code& error) {
  int status = 0;
  if (error == http::error::header_limit) {
    status = 431;
  } else if (error == http::error::body_limit) {
    status = 413;
  } else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    status = 400;
  }
  if (status == 0) return close();
  keep_alive_ = false;
  busy_ = true;
  refused_ = true;
  answer(requests_, HttpResponse::empty(status));
}

void HttpSession::dispatch() {
  being_served_ = true;
  const auto& message = parser_->get();
  keep_alive_ = message.keep_alive();
  version_ = message.version();
  head_ = message.method() == http::verb::head;
  HttpRequest request;
  request.method = message.method_string();
  const std::string_view target = message.target();
  const auto question = std::min(target.find('?'), target.size());
  request.path = target.substr(0, question);
  request.query = target.substr(std::min(question + 1, target.size()));
  request.accept = message[http::field::accept];
  request.accept_encoding = message[http::field::accept_encoding];
  request.host = message[http::field::host];
  request.origin = message[http::field::origin];
  request.fetch_site = message["Sec-Fetch-Site"];
  request.user_agent = message[http::field::user_agent];
  request.body = std::move(parser_->get().body());

  // Answers, unless somebody has; when nobody can any more, the client is told.
  struct Pending {
    std::weak_ptr<HttpSessionOwner> owner;
    std::weak_ptr<HttpSession> session;
    uint64_t number = 0;
    std::atomic<bool> answered{false};
    void answer(HttpResponse response) {
      if (answered.exchange(true)) return;
      const auto server = owner.lock();
      if (server == nullptr) return;
      server->post([session = session, number = number, response = std::move(response)]() mutable {
        if (const auto alive = session.lock()) alive->answer(number, std::move(response));
      });
    }
    ~Pending() { answer(HttpResponse::text(500, "no answer\n")); }
  };
  auto pending = std::make_shared<Pending>();
  pending->owner = weak_owner_;
  pending->session = weak_from_this();
  pending->number = ++requests_;
  stream_.expires_never();
  try {
    service_->handler(request, [pending](HttpResponse response) { pending->answer(std::move(response)); });
  } catch (const std::exception& error) {
    pending->answer(HttpResponse::text(500, fmt::format("{}\n", error.what())));
  }
}

void HttpSession::answer(uint64_t request, HttpResponse response) {
  if (request != requests_ || !busy_) return;
  response_ = std::move(response);
  if (owner_.draining()) keep_alive_ = false;
  if (!response_.more) return write_whole(std::move(response_.body));
  ended_ = false;
  piece_.clear();
  // Small answers are put together first.
  while (!ended_ && piece_.size() < kWholeAnswerBytes && response_.poll.count() == 0) {
    if (!next_piece()) return;
  }
  if (ended_) return write_whole(std::exchange(piece_, {}));
  write_pieces();
}

// False: the connection is over.
bool HttpSession::next_piece() {
  try {
    ended_ = !response_.more(piece_);
    return true;
  } catch (const std::exception& error) {
    ZT_LOG(scope, kWarn, "an answer was broken off", Field::string("error", error.what()));
    close();
    return false;
  }
}

void HttpSession::write_whole(std::string body) {
  whole_.emplace(static_cast<http::status>(response_.status), version_);
  set_headers(*whole_, response_, keep_alive_);
  whole_->content_length(body.size());
  if (!head_) whole_->body() = std::move(body);
  stream_.expires_after(owner_.limits().write_timeout);
  http::async_write(stream_, *whole_, then([](HttpSession& session) {
                      session.whole_.reset();
                      session.finish();
                    }));
}

void HttpSession::write_pieces() {
  // To a client that knows no chunks, the end of the connection is the end of the answer.
  const bool chunked = version_ >= 11;
  if (!chunked) keep_alive_ = false;
  fields_.emplace(static_cast<http::status>(response_.status), version_);
  set_headers(*fields_, response_, keep_alive_);
  if (chunked) fields_->chunked(true);
  serializer_.emplace(*fields_);
  stream_.expires_after(owner_.limits().write_timeout);
  http::async_write_header(stream_, *serializer_, then([](HttpSession& session) {
                             if (session.head_) return session.finish();
                             session.write_piece();
                           }));
}

void HttpSession::write_piece() {
  if (response_.poll.count() > 0 && owner_.draining()) ended_ = true;
  while (piece_.empty() && !ended_) {
    if (!next_piece()) return;
    if (!piece_.empty() || ended_ || response_.poll.count() == 0) continue;
    stream_.expires_never();
    wait_.expires_after(response_.poll);
    return wait_.async_wait([self = shared_from_this()](error_code) {
      if (self->stream_.socket().is_open()) self->write_piece();
    });
  }
  const bool last = piece_.empty();
  if (last && version_ < 11) return finish();
  auto next = then([last](HttpSession& session) {
    session.piece_.clear();
    if (last) return session.finish();
    session.write_piece();
  });
  stream_.expires_after(owner_.limits().write_timeout);
  if (last) {
    asio::async_write(stream_, http::make_chunk_last(), std::move(next));
  } else if (version_ < 11) {
    asio::async_write(stream_, asio::buffer(piece_), std::move(next));
  } else {
    asio::async_write(stream_, http::make_chunk(asio::buffer(piece_)), std::move(next));
  }
}

void HttpSession::finish() {
  busy_ = false;
  response_ = {};
  serializer_.reset();
  fields_.reset();
  if (refused_) return linger();
  if (!keep_alive_) return close();
  read();
}

// Closing with unread bytes would reset the connection, and the client might lose the answer: read on until
// it closes.
void HttpSession::linger() {
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  stream_.expires_after(owner_.limits().header_timeout);
  buffer_.clear();
  linger_read();
}

void HttpSession::linger_read() {
  stream_.async_read_some(buffer_.prepare(kLingerBytes), then([](HttpSession& session) { session.linger_read(); }));
}

}  // namespace zt::ztunnel
