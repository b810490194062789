#pragma once
#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "ztunnel/admin/http_server.h"

namespace zt::ztunnel {

// Whether the threads of this process still do anything. A thread that turns in circles, or waits for what never comes, answers no
// more; it is asked when somebody wants to know, so nothing is spent on it otherwise. Any thread.
class Liveness {
 public:
  using Post = std::function<void(std::function<void()>)>;  // runs it soon on the thread that is watched
  using After = std::function<void(std::chrono::milliseconds limit, std::function<void()>)>;  // from a thread that is not watched

  static constexpr std::chrono::milliseconds kLimit{3000};

  explicit Liveness(After after, std::chrono::milliseconds limit = kLimit) : after_(std::move(after)), limit_(limit) {}

  // From now on this thread has to answer. It can be posted to for as long as somebody asks.
  void watch(std::string name, Post post);
  // 200 "live\n" once all have answered; 500 "not live, no answer within 3000 ms from: worker 1\n" if one has not.
  void ask(HttpRespond respond) const;

 private:
  struct Watched {
    std::string name;
    Post post;
  };
  const After after_;
  const std::chrono::milliseconds limit_;
  mutable std::mutex mutex_;
  std::vector<Watched> watched_;
};

}  // namespace zt::ztunnel
