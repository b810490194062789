#include "ztunnel/admin/liveness.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <set>
#include <utility>

namespace zt::ztunnel {

namespace {

// Who has not answered one request yet. Answered once, by the last of them or by the limit.
class Question {
 public:
  Question(std::set<std::string> missing, HttpRespond respond) : missing_(std::move(missing)), respond_(std::move(respond)) {}

  void answered(const std::string& name) {
    const std::lock_guard lock(mutex_);
    missing_.erase(name);
    if (missing_.empty()) say(HttpResponse::text(200, "live\n"));
  }
  void over(std::chrono::milliseconds limit) {
    const std::lock_guard lock(mutex_);
    if (missing_.empty()) return;
    say(HttpResponse::text(500,
                           fmt::format("not live, no answer within {} ms from: {}\n", limit.count(), fmt::join(missing_, ", "))));
  }

 private:
  void say(HttpResponse response) {
    if (auto respond = std::exchange(respond_, nullptr)) respond(std::move(response));
  }
  std::mutex mutex_;
  std::set<std::string> missing_;
  HttpRespond respond_;
};

}  // namespace

void Liveness::watch(std::string name, Post post) {
  const std::lock_guard lock(mutex_);
  watched_.push_back({std::move(name), std::move(post)});
}

void Liveness::ask(HttpRespond respond) const {
  const std::lock_guard lock(mutex_);
  std::set<std::string> names;
  for (const auto& each : watched_) names.insert(each.name);
  if (names.empty()) return respond(HttpResponse::text(200, "live\n"));
  const auto question = std::make_shared<Question>(std::move(names), std::move(respond));
  for (const auto& each : watched_) each.post([question, name = each.name] { question->answered(name); });
  after_(limit_, [question, limit = limit_] { question->over(limit); });
}

}  // namespace zt::ztunnel
