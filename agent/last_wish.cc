#include "agent/last_wish.h"

#include <fmt/format.h>

#include <utility>

#include "kubernetes/objects.h"

namespace zt::agent {

namespace {
constexpr unsigned kOk = 200, kUnauthorized = 401, kNotFound = 404;
constexpr size_t kMaxAnswer = 4u << 20;
}  // namespace

LastWish::LastWish(EventLoop& loop, kubernetes::Api& api, const std::string& ns, const std::string& daemon_set,
                   std::function<void(bool gone)> done)
    : done_(std::move(done)), limit_(loop) {
  limit_.start_after(kLimit, [this] { std::exchange(done_, [](bool) {})(false); });
  call_ = api.start({.target = fmt::format("/apis/apps/v1/namespaces/{}/daemonsets/{}", ns, daemon_set), .idle_limit = kLimit},
                    {.on_head = [this](const kubernetes::ApiHead& head) { status_ = head.status; },
                     .on_data =
                         [this](const std::string& data) {
                           if (body_.size() < kMaxAnswer) body_ += data;
                         },
                     .on_end = [this](const Result<>&) { answered(); }});
}

void LastWish::answered() {
  const auto done = std::exchange(done_, [](bool) {});
  // Our account is gone, which is deleted together with us.
  if (status_ == kUnauthorized) return done(true);
  if (status_ == kNotFound) {
    // Of the object, and not of the path: that would be another kind of server.
    return done(kubernetes::parse_status(body_).reason == "NotFound");
  }
  const auto set = status_ == kOk ? kubernetes::parse_object(body_) : fail(Fault::kNotFound, "");
  done(set && set->deleting);
}

}  // namespace zt::agent
