#pragma once
#include <memory>

#include "base/event_loop.h"
#include "kubernetes/api.h"
#include "kubernetes/cluster_config.h"

namespace zt::kubernetes {

// The API server over TLS, each call on a connection of its own. Its server name and certificate are checked against the CA
// file; without a valid one nothing is sent. Never follows a redirection. The network is handled by a thread of its own
// (zt-kube); everything here belongs to the loop's thread.
class ApiClient final : public Api {
 public:
  ApiClient(EventLoop& loop, ClusterConfig config);
  ~ApiClient() override;  // after the calls
  [[nodiscard]] std::unique_ptr<ApiCall> start(ApiRequest request, ApiHandlers handlers) override;

 private:
  struct Network;
  EventLoop& loop_;
  std::unique_ptr<Network> network_;
};

}  // namespace zt::kubernetes
