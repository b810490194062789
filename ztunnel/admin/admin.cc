#include "ztunnel/admin/admin.h"

#include <fmt/format.h>

#include "base/log.h"
#include "base/text.h"
#include "ztunnel/admin/browser_guard.h"
#include "ztunnel/admin/http_negotiate.h"
#include "ztunnel/admin/liveness.h"
#include "ztunnel/admin/readiness.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel {
namespace {

log::Scope scope("admin");

constexpr std::string_view kDashboard = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>ztunnel admin</title>
<style>
body { font-family: sans-serif; margin: 2em; }
td { padding: 0.3em 1.5em 0.3em 0; }
button { background: none; border: none; padding: 0; font: inherit; color: #069; text-decoration: underline; cursor: pointer; }
</style>
</head>
<body>
<h1>ztunnel admin</h1>
<table>
<tr><td><a href="config_dump">config_dump</a></td><td>workloads, services, policies, certificates, connections, settings</td></tr>
<tr><td><form method="post" action="logging"><button>logging</button></form></td>
<td>log levels; POST logging?level=access=debug changes one, ?reset goes back</td></tr>
<tr><td><form method="post" action="quitquitquit"><button>quitquitquit</button></form></td><td>drain and end the process</td></tr>
<tr><td><a href="debug/pprof/profile">debug/pprof/profile</a></td><td>CPU profile (if built in)</td></tr>
<tr><td><a href="debug/pprof/heap">debug/pprof/heap</a></td><td>heap profile (if built in)</td></tr>
</table>
<p>Metrics are on port 15020 (/metrics), readiness on port 15021 (/healthz/ready).</p>
</body>
</html>
)";

// Tools show this to people; istioctl's own help describes the same forms.
constexpr std::string_view kLoggingHelp =
    "\nusage: POST /logging\t\t\t\t\t\t(To list current level)"
    "\nusage: POST /logging?level=<level>\t\t\t\t(To change global levels)"
    "\nusage: POST /logging?level={mod1}:{level1},{mod2}:{level2}\t(To change specific mods' logging level)"
    "\n\nhint: loglevel:\terror|warn|info|debug|trace|off"
    "\nhint: mod_name:\tthe module name, i.e. ztunnel::proxy\n";

HttpResponse logging(const HttpRequest& request) {
  if (request.method != "POST") return HttpResponse::text(405, fmt::format("Invalid HTTP method\n {}", kLoggingHelp));
  if (query_value(request.query, "reset").found) log::reset_filter();
  if (const auto level = query_value(request.query, "level"); level.found) {
    if (const auto done = log::append_filter(level.value); !done) {
      return HttpResponse::text(400, fmt::format("Invalid level provided: {}\n{}", level.value, kLoggingHelp));
    }
    const std::string filter = log::current_filter();
    ZT_LOG(scope, kInfo, "log levels changed", Field::string("filter", filter));
  }
  return HttpResponse::text(200, fmt::format("current log level is {}\n", log::current_filter()));
}

// Is the parameter absent, or a number in the range?
bool in_range(std::string_view query, std::string_view name, int low, int high) {
  const auto parameter = query_value(query, name);
  if (!parameter.found) return true;
  const auto value = whole_number<int>(parameter.value);
  return value && *value >= low && *value <= high;
}

// Profilers are not linked in: the answers say what works instead.
HttpResponse cpu_profile(const HttpRequest& request) {
  if (!in_range(request.query, "seconds", 1, 300)) return HttpResponse::text(400, "invalid seconds value; expected 1-300\n");
  if (!in_range(request.query, "frequency", 1, 1000))
    return HttpResponse::text(400, "invalid frequency value; expected 1-1000\n");
  return HttpResponse::text(501, "this build has no CPU profiler; on the node: perf record -g -p $(pidof ztunnel)\n");
}

HttpResponse heap_profiling(const HttpRequest& request) {
  const auto activate = query_value(request.query, "activate");
  if (activate.found && activate.value != "true" && activate.value != "false") {
    return HttpResponse::text(400, "invalid activate value; expected true or false\n");
  }
  if (activate.value == "true") return HttpResponse::text(501, "this build has no heap profiler\n");
  return HttpResponse::text(200, "heap profiling active: false\n");
}

}  // namespace

HttpHandler admin_handler(AdminHooks hooks) {
  return [hooks = std::move(hooks)](const HttpRequest& request, HttpRespond respond) {
    const auto& path = request.path;
    if (request.method != "GET" && request.method != "HEAD") {
      if (auto why = foreign_page(request); !why.empty()) return respond(HttpResponse::text(403, std::move(why)));
    }
    if (path == "/config_dump") return hooks.config_dump(std::move(respond));
    if (path == "/connections" && hooks.connections) return hooks.connections(std::move(respond));
    if (path == "/logging") return respond(logging(request));
    if (path == "/quitquitquit") {
      if (request.method != "POST") return respond(HttpResponse::empty(405));
      ZT_LOG(scope, kInfo, "shutdown requested over HTTP");
      respond(HttpResponse::text(200, "shutdown now\n"));
      return hooks.shutdown();
    }
    if (path == "/debug/pprof/profile") return respond(cpu_profile(request));
    if (path == "/debug/pprof/heap") return respond(HttpResponse::text(501, "this build has no heap profiler\n"));
    if (path == "/debug/pprof/heap/profiling") return respond(heap_profiling(request));
    if (path == "/") {
      HttpResponse page = HttpResponse::text(200, std::string(kDashboard));
      page.content_type = "text/html; charset=utf-8";
      return respond(std::move(page));
    }
    respond(HttpResponse::empty(404));
  };
}

HttpHandler stats_handler(Metrics& metrics) {
  return [&metrics](const HttpRequest& request, const HttpRespond& respond) {
    if (request.path != "/metrics" && request.path != "/stats/prometheus") return respond(HttpResponse::empty(404));
    HttpResponse response;
    response.content_type = header_names(request.accept, "application/openmetrics-text")
                                ? "application/openmetrics-text;charset=utf-8;version=1.0.0"
                                : "text/plain; charset=utf-8";
    response.headers.emplace_back("vary", "accept-encoding");
    response.body = metrics.render();
    if (header_allows(request.accept_encoding, "gzip")) {
      response.body = gzip(response.body);
      response.headers.emplace_back("content-encoding", "gzip");
    }
    respond(std::move(response));
  };
}

HttpHandler readiness_handler(const Readiness& readiness, const Liveness& liveness) {
  return [&readiness, &liveness](const HttpRequest& request, const HttpRespond& respond) {
    const bool live = request.path == "/healthz/live";
    if (!live && request.path != "/healthz/ready") return respond(HttpResponse::empty(404));
    if (request.method != "GET") return respond(HttpResponse::empty(405));
    if (live) return liveness.ask(respond);
    // One look decides both: the state may change between two.
    std::string text = readiness.text();
    const int status = text == "ready\n" ? 200 : 500;
    respond(HttpResponse::text(status, std::move(text)));
  };
}

}  // namespace zt::ztunnel
