#include "ztunnel/telemetry/metrics_registry.h"

#include <dirent.h>
#include <sys/resource.h>

#include <algorithm>
#include <stdexcept>

#include "base/log.h"
#include "ztunnel/telemetry/metrics_text.h"
#include "ztunnel/telemetry/version.h"

namespace zt::ztunnel {
namespace {

constexpr std::array<double, 6> kDnsBounds{0.0005, 0.001, 0.01, 0.1, 1, 5};
constexpr std::array<double, 7> kHandshakeBounds{0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1};
constexpr std::array<double, 10> kLatencyBounds{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 5, 20};
constexpr std::array<double, 7> kCaBounds{0.005, 0.025, 0.1, 0.5, 2, 5, 20};

const std::vector<std::string> kDnsLabels{"request_query_type", "request_protocol", "source_canonical_service",
                                          "source_canonical_revision"};
const std::vector<std::string> kOnDemandLabels{"source_workload",
                                               "source_canonical_service",
                                               "source_canonical_revision",
                                               "source_workload_namespace",
                                               "source_principal",
                                               "source_app",
                                               "source_version",
                                               "source_cluster",
                                               "hostname"};

struct Named {
  std::string_view name, help;
};
constexpr Named kSeries{"zt_metrics_series", "Label sets of traffic metrics, counted per worker."};
constexpr Named kOverflows{"zt_metrics_overflows", "Connections counted under the label value overflow."};
constexpr Named kDroppedLines{"zt_log_dropped_lines", "Log lines dropped because the queue was full."};

int64_t count_open_descriptors() {
  DIR* const directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int64_t count = 0;
  while (const dirent* entry = ::readdir(directory)) count += entry->d_name[0] != '.' ? 1 : 0;
  ::closedir(directory);
  return std::max<int64_t>(0, count - 1);  // not the one we count with
}

void append_gauge(std::string& out, std::string_view name, std::string_view help, uint64_t value) {
  append_family(out, name, help, "gauge");
  out.append(name).append(" ").append(std::to_string(value)).append("\n");
}

void append_counter(std::string& out, std::string_view name, std::string_view help, uint64_t value) {
  append_family(out, name, help, "counter");
  out.append(name).append("_total ").append(std::to_string(value)).append("\n");
}

void append_process(std::string& out) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  append_gauge(out, "process_open_fds", "Number of open file descriptors", static_cast<uint64_t>(count_open_descriptors()));
  append_gauge(out, "process_max_fds", "Maximum number of file descriptors", limit.rlim_cur);
}

}  // namespace

Metrics::Metrics(size_t workers, const TrafficLimits& limits, std::string istio_version)
    : traffic(workers, limits),
      xds_connection_terminations({"istio_xds_connection_terminations",
                                   "The total number of completed connections to xds server (unstable).",
                                   "",
                                   {"reason"}}),
      xds_messages({"istio_xds_message", "Total number of messages received (unstable).", "", {"url"}}),
      xds_message_bytes({"istio_xds_message_bytes", "Total number of bytes received (unstable).", "bytes", {"url"}}),
      on_demand_dns(
          {"istio_on_demand_dns", "The total number of requests that used on-demand DNS (unstable).", "", kOnDemandLabels}),
      crl_rejections({"istio_crl_policy_rejections",
                      "The total number of connections refused or ended because of a revocation list (unstable).",
                      "",
                      {"reporter"}}),
      crl_untracked({"istio_crl_untracked_connections",
                     "The total number of connections that a new revocation list cannot end (unstable).",
                     "",
                     {"reporter"}}),
      dns_requests({"istio_dns_requests", "Total number of DNS requests (unstable).", "", kDnsLabels}),
      dns_upstream_requests(
          {"istio_dns_upstream_requests", "Total number of DNS requests forwarded to upstream (unstable).", "", kDnsLabels}),
      dns_upstream_failures({"istio_dns_upstream_failures",
                             "Total number of DNS requests that failed to forward upstream (unstable).", "", kDnsLabels}),
      dns_upstream_duration(
          {"istio_dns_upstream_request_duration_seconds",
           "Total time in seconds Istio takes to get DNS response from upstream (unstable).", "seconds", kDnsLabels},
          kDnsBounds),
      active_proxies(
          {"workload_manager_active_proxy_count", "The total number current workloads with active proxies (unstable).", "", {}}),
      pending_proxies({"workload_manager_pending_proxy_count",
                       "The total number current workloads with pending proxies (unstable).",
                       "",
                       {}}),
      proxies_started({"workload_manager_proxies_started", "The total number of proxies that were started (unstable).", "", {}}),
      proxies_stopped({"workload_manager_proxies_stopped", "The total number of proxies that were stopped (unstable).", "", {}}),
      handshakes({"zt_tunnel_handshakes", "TLS handshakes of tunnels.", "", {"role", "result"}}),
      handshake_duration(
          {"zt_tunnel_handshake_duration_seconds", "Time that completed TLS handshakes took.", "seconds", {"role"}},
          kHandshakeBounds),
      pool_dials({"zt_pool_dials", "Tunnels that were dialled.", "", {"result"}}),
      connects_resent({"zt_connects_resent",
                       "Requests that a peer left undone, as it refused them, left or was lost, and that were sent again.",
                       "",
                       {}}),
      connect_failovers({"zt_connect_failovers",
                         "Connections that went to another endpoint because the one before could not be reached.",
                         "",
                         {"reason"}}),
      endpoints_set_aside(
          {"zt_endpoints_set_aside", "How often a worker set an endpoint aside because it failed again and again.", "", {}}),
      early_denials({"zt_early_denials",
                     "Connections refused before anything was known of them; no traffic metric counts these.",
                     "",
                     {"reporter", "reason"}}),
      accept_errors({"zt_accept_errors", "Failures to accept a connection.", "", {"listener"}}),
      dns_forwarded(
          {"zt_dns_forwarded", "DNS queries over UDP that the mesh does not answer, by what became of them.", "", {"result"}}),
      dns_dropped({"zt_dns_dropped", "DNS packets that were no proper query or answer.", "", {"reason"}}),
      connect_duration({"zt_connect_duration_seconds",
                        "Time that a TCP connection took to be made or to fail, by whom it went to.",
                        "seconds",
                        {"to"}},
                       kLatencyBounds),
      pool_wait({"zt_pool_wait_seconds", "Time that a connection waited for a stream of a tunnel.", "seconds", {}},
                kLatencyBounds),
      certificate_wait(
          {"zt_certificate_wait_seconds", "Time that connections waited for a certificate, of those that had to.", "seconds", {}},
          kLatencyBounds),
      first_byte(
          {"zt_first_byte_seconds", "Time from accepting a connection to the first byte of its server.", "seconds", {"reporter"}},
          kLatencyBounds),
      stall({"zt_connection_stall_seconds",
             "How long receivers took nothing of what was there for them, of connections in which that happened, at their end.",
             "seconds",
             {"reporter"}},
            kLatencyBounds),
      limit_reached({"zt_limit_reached",
                     "Connections, tunnels and DNS queries that were refused or ended because of a limit.",
                     "",
                     {"limit"}}),
      handover_connections({"zt_handover_connections",
                            "Live connections that were given to the next process or taken over from the one before.",
                            "",
                            {"way"}}),
      handover_stayed({"zt_handover_stayed",
                       "Tunnels and plain connections that the next process was not given in time, by what held them.",
                       "",
                       {"cause"}}),
      ca_duration({"zt_ca_request_duration_seconds",
                   "Time until the certificate authority had answered a request.",
                   "seconds",
                   {"result"}},
                  kCaBounds),
      times{connect_duration.get({"peer"}),
            connect_duration.get({"application"}),
            connect_duration.get({"plain"}),
            pool_wait.get(),
            certificate_wait.get(),
            {&first_byte.get({"source"}), &first_byte.get({"destination"})},
            {&stall.get({"source"}), &stall.get({"destination"})}},
      live(workers) {
  append_family(build_, "istio_build", "Istio component build info.", "gauge");
  build_ += "istio_build{component=\"ztunnel\"";
  append_label(build_, "tag", istio_version.empty() || istio_version == "unknown" ? build_info({}).version : istio_version);
  build_ += "} 1\n";
  for (GaugeFamily* gauge : {&active_proxies, &pending_proxies}) gauge->get();
  for (CounterFamily* counter : {&proxies_started, &proxies_stopped, &connects_resent, &endpoints_set_aside}) counter->get();
}

std::vector<const Family*> Metrics::before_traffic() const {
  return {&xds_connection_terminations, &xds_messages, &xds_message_bytes};
}

std::vector<const Family*> Metrics::after_traffic() const {
  return {&crl_rejections,
          &crl_untracked,
          &dns_requests,
          &dns_upstream_requests,
          &dns_upstream_failures,
          &dns_upstream_duration,
          &active_proxies,
          &pending_proxies,
          &proxies_started,
          &proxies_stopped,
          &handshakes,
          &handshake_duration,
          &pool_dials,
          &connects_resent,
          &connect_failovers,
          &endpoints_set_aside,
          &early_denials,
          &accept_errors,
          &dns_forwarded,
          &dns_dropped,
          &connect_duration,
          &pool_wait,
          &certificate_wait,
          &first_byte,
          &stall,
          &limit_reached,
          &handover_connections,
          &handover_stayed,
          &ca_duration};
}

void Metrics::append_rest(std::string& out) const {
  for (const Family* family : after_traffic()) family->render(out);
  append_gauge(out, kSeries.name, kSeries.help, traffic.series_count());
  append_counter(out, kOverflows.name, kOverflows.help, traffic.overflows());
  append_counter(out, kDroppedLines.name, kDroppedLines.help, log::dropped_lines());
  for (const auto& family : added_) family->render(out);
  out += "# EOF\n";
}

class Metrics::Scrape {
 public:
  Scrape(Metrics& metrics, const TrafficSamplePtr& sample) : metrics_(metrics), sample_(sample), text_(nullptr) {}
  Scrape(Scrape&& other) noexcept = default;
  ~Scrape() {
    const auto mine = sample_.lock();
    if (mine == nullptr) return;
    const std::lock_guard lock(metrics_.scrapes_mutex_);
    std::erase(metrics_.scrapes_, mine);
  }

  bool some(std::string& out) {
    const auto sample = sample_.lock();
    if (sample == nullptr) throw std::runtime_error("too many scrapes at a time: this one was the slowest");
    text_.show(sample.get());
    switch (step_) {
      case Step::kProcess:
        append_process(out);
        out += metrics_.build_;
        for (const Family* family : metrics_.before_traffic()) family->render(out);
        step_ = Step::kTraffic;
        return true;
      case Step::kTraffic:
        if (text_.first(out)) return true;
        metrics_.on_demand_dns.render(out);
        step_ = Step::kFailed;
        return true;
      case Step::kFailed:
        if (!text_.second(out)) step_ = Step::kRest;
        return true;
      case Step::kRest:
        metrics_.append_rest(out);
        step_ = Step::kDone;
        return false;
      case Step::kDone: break;
    }
    return false;
  }

 private:
  enum class Step : uint8_t { kProcess, kTraffic, kFailed, kRest, kDone };
  Metrics& metrics_;
  std::weak_ptr<const TrafficSample> sample_;
  TrafficText text_;
  Step step_ = Step::kProcess;
};

std::move_only_function<bool(std::string& out)> Metrics::scrape(Clock::time_point now) {
  const auto sample = traffic.sample(now);
  {
    const std::lock_guard lock(scrapes_mutex_);
    if (scrapes_.size() >= kMostScrapes) scrapes_.pop_front();
    scrapes_.push_back(sample);
  }
  return [scrape = std::make_unique<Scrape>(*this, sample)](std::string& out) { return scrape->some(out); };
}

std::string Metrics::render(Clock::time_point now) {
  std::string out;
  for (auto more = scrape(now); more(out);) {
  }
  return out;
}

std::vector<Metrics::Description> Metrics::describe() const {
  std::vector<Description> all;
  const auto add = [&](const Family& family) { all.push_back({family.info(), std::string(family.type())}); };
  all.push_back({{"process_open_fds", "Number of open file descriptors", "", {}}, "gauge"});
  all.push_back({{"process_max_fds", "Maximum number of file descriptors", "", {}}, "gauge"});
  all.push_back({{"istio_build", "Istio component build info.", "", {"component", "tag"}}, "gauge"});
  for (const Family* family : before_traffic()) add(*family);
  for (auto& description : describe_traffic()) all.push_back({std::move(description), "counter"});
  all.push_back({{"istio_tcp_sockets_open", std::string(kSocketsHelp), "", {"reporter"}}, "gauge"});
  add(on_demand_dns);
  for (const Family* family : after_traffic()) add(*family);
  all.push_back({{std::string(kSeries.name), std::string(kSeries.help), "", {}}, "gauge"});
  for (const auto& one : {kOverflows, kDroppedLines})
    all.push_back({{std::string(one.name), std::string(one.help), "", {}}, "counter"});
  for (const auto& family : added_) add(*family);
  return all;
}

}  // namespace zt::ztunnel
