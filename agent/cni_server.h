#pragma once
#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace zt::agent {

// What the CNI plugin says of a sandbox that has just been made.
struct CniRequest {
  std::string netns;  // as the container runtime has it: a path on the host
  std::string pod, ns;
  std::vector<std::string> ips;
};
// The body of POST /cmdadd, as istio-cni's plugin writes it: {"Netns", "PodName", "PodNamespace", "IPs": [{"Address": {"IP"}}]}.
// kInvalidInput, naming what is missing or wrong.
[[nodiscard]] Result<CniRequest> parse_cni_request(std::string_view json);

// The socket at which the CNI plugin asks for a pod, which does not start before it is answered (redirection contract §4.4):
// HTTP/1.1, one request a connection; 200, 400 for what makes no sense, 500 with a text. Loop's thread.
class CniServer final : private Watcher {
 public:
  using Done = std::function<void(const Result<>&)>;
  // `done` may be called later, once; after the server has gone it does nothing.
  using Handler = std::function<void(CniRequest, Done done)>;
  static constexpr size_t kMaxRequest = 64 * 1024;
  static constexpr size_t kMaxConnections = 256;
  static constexpr std::chrono::milliseconds kReadLimit{5000};     // for a request to come
  static constexpr std::chrono::milliseconds kTotalLimit{10'000};  // for all of it

  CniServer(EventLoop& loop, std::string path, Handler handler);
  ~CniServer();
  // Listens. Errors as listen_unix().
  Result<> start();

 private:
  class Connection;
  void on_ready(uint32_t events) noexcept override;
  void forget(Connection& connection);

  EventLoop& loop_;
  const std::string path_;
  const Handler handler_;
  UniqueFd listener_;
  std::list<std::shared_ptr<Connection>> connections_;
};

}  // namespace zt::agent
