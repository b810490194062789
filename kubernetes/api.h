#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"

// What is asked of a Kubernetes API server, however it is reached.
namespace zt::kubernetes {

struct ApiRequest {
  std::string method = "GET";
  std::string target = {};        // path and query
  std::string content_type = {};  // of the body
  std::string body = {};
  // Without a byte for so long, in whatever the call is waiting for, it ends with an error.
  std::chrono::milliseconds idle_limit{15'000};
};

struct ApiHead {
  unsigned status = 0;
  std::optional<std::chrono::seconds> retry_after = {};
};

// One request and its answer. Destroyed: it ends, and nothing more is heard of it; a handler may do that.
class ApiCall {
 public:
  virtual ~ApiCall() = default;

 protected:
  ApiCall() = default;
  ApiCall(const ApiCall&) = delete;
};

// On the loop's thread: on_head once, on_data as the body comes (the next piece is read when this one has been taken),
// on_end once. An error of on_end says what could not be done and where; an answer that was cut short is one.
struct ApiHandlers {
  std::function<void(const ApiHead&)> on_head;
  std::function<void(const std::string&)> on_data;
  std::function<void(const Result<>&)> on_end;
};

class Api {
 public:
  virtual ~Api() = default;
  // Handlers are called later, never from within.
  [[nodiscard]] virtual std::unique_ptr<ApiCall> start(ApiRequest request, ApiHandlers handlers) = 0;
};

}  // namespace zt::kubernetes
