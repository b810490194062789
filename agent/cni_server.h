#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "agent/http_server.h"
#include "base/event_loop.h"
#include "base/result.h"

namespace zt::agent {

// What the CNI plugin says of a sandbox that has just been made.
struct CniRequest {
  std::string netns;  // as the container runtime has it: a path on the host
  std::string pod, ns;
  std::string uid = {};  // as kubelet has it; from our own plugin alone
  std::vector<std::string> ips = {};
};
// The body of POST /cmdadd, as istio-cni's plugin writes it: {"Netns", "PodName", "PodNamespace", "IPs": [{"Address": {"IP"}}]},
// and "PodUID" from ours.
// kInvalidInput, naming what is missing or wrong.
[[nodiscard]] Result<CniRequest> parse_cni_request(std::string_view json);

// The socket at which the CNI plugin asks for a pod, which does not start before it is answered (redirection contract §4.4):
// HTTP/1.1, one request a connection; 200, 400 for what makes no sense, 500 with a text. GET /readyz, for a readiness probe, has 200,
// or 503 with the reason. Loop's thread.
class CniServer {
 public:
  using Done = std::function<void(const Result<>&)>;
  using Ready = std::function<Result<>()>;
  // `done` may be called later, once; after the server or the plugin has gone it does nothing.
  using Handler = std::function<void(CniRequest, Done done)>;

  CniServer(EventLoop& loop, std::string path, Ready ready, Handler handler);
  // Listens. Errors as listen_unix().
  Result<> start();
  // How many calls have been answered, by HTTP status.
  [[nodiscard]] const std::map<unsigned, uint64_t>& answers() const { return *answers_; }

 private:
  void asked(const HttpRequest& request, HttpServer::Reply reply);

  const std::string path_;
  const Ready ready_;
  const Handler handler_;
  // Shared with calls that are answered when we have gone.
  const std::shared_ptr<std::map<unsigned, uint64_t>> answers_ = std::make_shared<std::map<unsigned, uint64_t>>();
  HttpServer server_;
};

}  // namespace zt::agent
