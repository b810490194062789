#include "ztunnel/admin/admin.h"

#include <fmt/format.h>

#include <optional>

#include "base/log.h"
#include "base/text.h"
#include "ztunnel/admin/browser_guard.h"
#include "ztunnel/admin/http_compress.h"
#include "ztunnel/admin/http_negotiate.h"
#include "ztunnel/admin/liveness.h"
#include "ztunnel/admin/page.h"
#include "ztunnel/admin/readiness.h"
#include "ztunnel/telemetry/metrics_registry.h"

namespace zt::ztunnel {
namespace {

log::Scope scope("admin");

constexpr std::string_view kHelp =
    "GET  /                      a page that draws the node live, for a browser\n"
    "GET  /live                  what it draws, as server-sent events\n"
    "GET  /config_dump           workloads, services, policies, certificates, connections, settings, as JSON\n"
    "GET  /connections          what is open, and what ended lately, as JSON\n"
    "GET  /explain?source=ADDRESS&destination=ADDRESS:PORT\n"
    "                            which way a connection would take, and which policy decides\n"
    "POST /logging               the log levels; ?level=info, ?level=access:debug,xds:trace; ?reset goes back\n"
    "GET  /debug/pprof/profile   CPU profile for `go tool pprof`; ?seconds=1..300 (10), ?frequency=1..1000 (100)\n"
    "POST /quitquitquit          drain and end the process\n"
    "\n"
    "Port 15020: /metrics. Port 15021: /healthz/ready, /healthz/live.\n";

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

// The parameter's number; `otherwise` if it is absent; nothing if it is not in the range.
std::optional<int> number_of(std::string_view query, std::string_view name, int low, int high, int otherwise) {
  const auto parameter = query_value(query, name);
  if (!parameter.found) return otherwise;
  const auto value = whole_number<int>(parameter.value);
  if (!value || *value < low || *value > high) return std::nullopt;
  return *value;
}

void cpu_profile(const AdminHooks& hooks, const HttpRequest& request, HttpRespond respond) {
  const auto seconds = number_of(request.query, "seconds", 1, 300, 10);
  if (!seconds) return respond(HttpResponse::text(400, "invalid seconds value; expected 1-300\n"));
  const auto frequency = number_of(request.query, "frequency", 1, 1000, 100);
  if (!frequency) return respond(HttpResponse::text(400, "invalid frequency value; expected 1-1000\n"));
  if (!hooks.cpu_profile) return respond(HttpResponse::text(501, "no CPU profiler here\n"));
  hooks.cpu_profile(std::chrono::seconds(*seconds), *frequency, std::move(respond));
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
    // A profile makes the node work and a dump tells all of it; the page and the help are the same everywhere.
    const bool harmless = (request.method == "GET" || request.method == "HEAD") && (path == "/" || path == "/help");
    if (!harmless) {
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
    if (path == "/debug/pprof/profile") return cpu_profile(hooks, request, std::move(respond));
    if (path == "/debug/pprof/heap") return respond(HttpResponse::text(501, "this build has no heap profiler\n"));
    if (path == "/debug/pprof/heap/profiling") return respond(heap_profiling(request));
    if (path == "/live") return respond(hooks.live ? hooks.live() : HttpResponse::empty(404));
    if (path == "/explain" && hooks.explain) {
      return hooks.explain(query_value(request.query, "source").value, query_value(request.query, "destination").value,
                           std::move(respond));
    }
    if (path == "/help" || path == "/debug" || path == "/debug/") return respond(HttpResponse::text(200, std::string(kHelp)));
    if (path == "/") return respond(page_response());
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
    answer_in_pieces(response, request, metrics.scrape());
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
