#pragma once
#include <chrono>
#include <functional>
#include <string>

#include "ztunnel/admin/http_server.h"

// What the three HTTP ports answer (contract §10.1, §10.6, §10.7). Handlers run on the HTTP server's thread.
namespace zt::ztunnel {

class Liveness;
class Metrics;
class Readiness;

// How the admin port reaches the rest of the process. Both are called on the HTTP server's thread and must
// not block: they post.
struct AdminHooks {
  std::function<void(HttpRespond respond)> config_dump;    // answers with config_dump_response()
  std::function<void(HttpRespond respond)> connections{};  // answers with connections_response()
  std::function<void()> shutdown;                          // POST /quitquitquit
  std::function<HttpResponse()> live{};                    // an answer without end (ztunnel/admin/live_feed.h); none: 404
  std::function<void(std::chrono::seconds duration, int frequency, HttpRespond respond)> cpu_profile{};  // none: 501
  // As `ztunnel explain`, in words; none: 404.
  std::function<void(std::string source, std::string destination, HttpRespond respond)> explain{};
};

// 15000: / (the page), /live, /explain, /config_dump, /connections, /logging, /quitquitquit, /debug/pprof/…
[[nodiscard]] HttpHandler admin_handler(AdminHooks hooks);
// 15020: /metrics and /stats/prometheus, any method. `metrics` outlives the server.
[[nodiscard]] HttpHandler stats_handler(Metrics& metrics);
// 15021: GET /healthz/ready and /healthz/live. Both outlive the server.
[[nodiscard]] HttpHandler readiness_handler(const Readiness& readiness, const Liveness& liveness);

}  // namespace zt::ztunnel
