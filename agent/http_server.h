#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace zt::agent {

struct HttpRequest {
  std::string method, target, body;
};
struct HttpAnswer {
  unsigned status = 200;
  std::string text = {};
  std::string_view type = "text/plain";
};

// HTTP/1.1 for short questions and short answers, one request a connection; 400 for what is no request. Whoever is slow, sends
// much or only connects costs nobody else anything. Loop's thread.
class HttpServer final : private Watcher {
 public:
  // May be called later, once; after the server or the asker has gone it does nothing.
  using Reply = std::function<void(HttpAnswer)>;
  using Handler = std::function<void(HttpRequest, Reply)>;
  static constexpr size_t kMaxRequest = 64 * 1024;
  static constexpr size_t kMaxConnections = 256;
  static constexpr std::chrono::milliseconds kReadLimit{5000};     // for a request to come
  static constexpr std::chrono::milliseconds kTotalLimit{10'000};  // for all of it

  // `who` asks here, for the log.
  HttpServer(EventLoop& loop, std::string who, Handler handler);
  ~HttpServer();
  // Serves those who come to this listener.
  Result<> start(UniqueFd listener);

 private:
  class Connection;
  void on_ready(uint32_t events) noexcept override;
  void forget(Connection& connection);

  EventLoop& loop_;
  const std::string who_;
  const Handler handler_;
  UniqueFd listener_;
  std::list<std::shared_ptr<Connection>> connections_;  // the oldest first
  bool crowded_ = false;                                // and it was said
};

}  // namespace zt::agent
