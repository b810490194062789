#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "kubernetes/api.h"

namespace zt::agent {

// Asks, when the agent ends, whether its DaemonSet is gone for good: then nobody will answer the CNI plugin any more. Whatever
// else is said or not said means that another agent follows (redirection contract §4.7). Loop's thread.
class LastWish {
 public:
  static constexpr std::chrono::milliseconds kLimit{3000};

  // `done` is called once.
  LastWish(EventLoop& loop, kubernetes::Api& api, const std::string& ns, const std::string& daemon_set,
           std::function<void(bool gone)> done);

 private:
  void answered();

  std::function<void(bool)> done_;
  unsigned status_ = 0;
  std::string body_;
  Timer limit_;
  std::unique_ptr<kubernetes::ApiCall> call_;
};

}  // namespace zt::agent
