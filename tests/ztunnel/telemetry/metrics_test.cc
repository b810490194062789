#include "ztunnel/telemetry/metrics.h"
#include "mesh/reason.h"

#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "ztunnel/telemetry/metrics_families.h"
#include "ztunnel/telemetry/metrics_registry.h"
#include "ztunnel/telemetry/metrics_text.h"
#include "ztunnel/telemetry/runtime_metrics.h"
#include "ztunnel/telemetry/version.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;
using Clock = TrafficMetrics::Clock;

namespace {

std::string read_golden(const std::string& name) {
  std::ifstream file(std::string(ZT_GOLDEN_DIR "/ztunnel/") + name);
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  uint64_t value = 0;
};

// One line of a scrape of the peer, whose values need no escapes.
Sample parse_sample(const std::string& line) {
  Sample sample;
  const auto brace = line.find('{');
  sample.name = line.substr(0, brace);
  size_t at = brace + 1;
  while (line[at - 1] != '}') {
    const auto equals = line.find('=', at);
    const auto end = line.find('"', equals + 2);
    sample.labels[line.substr(at, equals - at)] = line.substr(equals + 2, end - equals - 2);
    at = end + 2;
  }
  sample.value = std::stoull(line.substr(line.rfind(' ')));
  return sample;
}

// "unknown" in a scrape is what we are not told.
std::string_view known(const std::map<std::string, std::string>& labels, const std::string& name) {
  const auto found = labels.find(name);
  if (found == labels.end() || found->second == "unknown") return {};
  return found->second;
}

PartyLabels party(const std::map<std::string, std::string>& labels, const std::string& side) {
  return {known(labels, side + "_workload"),
          known(labels, side + "_canonical_service"),
          known(labels, side + "_canonical_revision"),
          known(labels, side + "_workload_namespace"),
          known(labels, side + "_principal"),
          known(labels, side + "_app"),
          known(labels, side + "_version"),
          known(labels, side + "_cluster"),
          known(labels, side + "_region"),
          known(labels, side + "_zone")};
}

TrafficLabels traffic(const std::map<std::string, std::string>& labels) {
  return {labels.at("reporter") == "source" ? Reporter::kSource : Reporter::kDestination,
          party(labels, "source"),
          known(labels, "destination_service"),
          known(labels, "destination_service_namespace"),
          known(labels, "destination_service_name"),
          party(labels, "destination"),
          labels.at("connection_security_policy") == "mutual_tls",
          labels.contains("source_region"),
          {}};
}

Reason reason_of(const std::string& flag) {
  for (size_t i = 0; i < static_cast<size_t>(Reason::kCount_); ++i) {
    if (reason_info(static_cast<Reason>(i)).response_flag == flag) return static_cast<Reason>(i);
  }
  FAIL("no reason has the flag " << flag);
  return Reason::kOk;
}

TrafficLabels simple(std::string_view workload, Reporter reporter = Reporter::kSource) {
  TrafficLabels labels;
  labels.reporter = reporter;
  labels.source.workload = workload;
  labels.source.ns = "shop";
  return labels;
}

std::string scrape(TrafficMetrics& metrics, Clock::time_point now = Clock::now()) {
  const auto sample = metrics.sample(now);
  TrafficText text(sample.get());
  std::string out;
  while (text.first(out)) {
  }
  while (text.second(out)) {
  }
  return out;
}

uint64_t value_of(const std::string& text, const std::string& name, const std::string& label) {
  for (const auto& line : lines_of(text)) {
    if (line.starts_with(name + "{") && line.find(label) != std::string::npos) return std::stoull(line.substr(line.rfind(' ')));
  }
  return 0;
}

}  // namespace

TEST_CASE("the recorded traffic gives the peer's families, labels, order and values") {
  std::map<std::string, std::vector<Sample>> samples;
  std::set<std::string> expected;
  std::vector<std::string> expected_heads;
  for (const auto& line : lines_of(read_golden("metrics-plain.txt"))) {
    if (line.starts_with("istio_tcp_connections") || line.find("_bytes_total{reporter") != std::string::npos) {
      const auto sample = parse_sample(line);
      samples[sample.name].push_back(sample);
      expected.insert(line);
    } else if (line.starts_with("# ") && line.find("istio_tcp_") != std::string::npos) {
      expected_heads.push_back(line);
    }
  }
  REQUIRE(samples["istio_tcp_connections_opened_total"].size() == 28);

  TrafficMetrics metrics(3, {});
  // Connections by label set; how each ended is told by the closed samples.
  std::map<std::string, std::vector<TrafficHandle>> open;
  const auto key = [](std::map<std::string, std::string> labels) {
    labels.erase("response_flags");
    std::string text;
    for (const auto& [name, value] : labels) text += name + "=" + value + ",";
    return text;
  };
  size_t worker = 0;
  for (const auto& sample : samples["istio_tcp_connections_opened_total"]) {
    for (uint64_t i = 0; i < sample.value; ++i) {
      open[key(sample.labels)].push_back(metrics.cell(worker++ % 3).open(traffic(sample.labels)));
    }
  }
  for (const auto& sample : samples["istio_tcp_received_bytes_total"])
    open[key(sample.labels)].front().add_received(sample.value);
  for (const auto& sample : samples["istio_tcp_sent_bytes_total"]) open[key(sample.labels)].back().add_sent(sample.value);
  for (const auto& sample : samples["istio_tcp_connections_closed_total"]) {
    for (uint64_t i = 0; i < sample.value; ++i) {
      auto& handles = open[key(sample.labels)];
      REQUIRE_FALSE(handles.empty());
      handles.back().close(reason_of(sample.labels.at("response_flags")));
      handles.pop_back();
    }
  }
  std::set<std::string> got;
  std::vector<std::string> heads;
  for (const auto& line : lines_of(scrape(metrics))) {
    if (line.starts_with("#")) {
      heads.push_back(line);
    } else if (!line.starts_with("istio_tcp_sockets_open")) {
      CHECK(got.insert(line).second);
    }
  }
  CHECK(got == expected);
  CHECK(heads == expected_heads);
}

TEST_CASE("the whole scrape has the peer's families in the peer's order, then ours, then EOF") {
  Metrics metrics(1, {}, "1.32-alpha");
  metrics.xds_messages.get({"type.googleapis.com/istio.workload.Address"}).add(1);
  metrics.xds_message_bytes.get({"type.googleapis.com/istio.workload.Address"}).add(11528);
  auto handle = metrics.traffic.cell(0).open(simple("a"));
  metrics.dns_requests.get({"a", "udp", "shopper", "r7"}).add(30);
  metrics.dns_upstream_requests.get({"a", "udp", "shopper", "r7"}).add(8);
  metrics.dns_upstream_failures.get({"a", "udp", "shopper", "r7"}).add(6);
  metrics.dns_upstream_duration.get({"a", "udp", "shopper", "r7"}).observe(0.0004);
  handle.close(Reason::kOk);
  const auto text = metrics.render();
  std::vector<std::string> expected;
  for (const auto& line : lines_of(read_golden("metrics-with-dns.txt"))) {
    if (line.starts_with("# ") && line.find("tokio_") == std::string::npos && line != "# EOF") expected.push_back(line);
  }
  std::vector<std::string> got;
  for (const auto& line : lines_of(text)) {
    if (line.starts_with("# ") && line.find(" zt_") == std::string::npos && line != "# EOF") got.push_back(line);
  }
  CHECK(got == expected);
  CHECK_THAT(text, Catch::EndsWith("# EOF\n"));
  CHECK_THAT(text, Catch::Contains("istio_build{component=\"ztunnel\",tag=\"1.32-alpha\"} 1\n"));
  CHECK_THAT(text, Catch::Contains("istio_xds_message_bytes_total{url=\"type.googleapis.com/istio.workload.Address\"} 11528\n"));
  CHECK_THAT(text, Catch::Contains("workload_manager_proxies_started_total 0\n"));
  CHECK_THAT(text, Catch::Contains("istio_dns_requests_total{request_query_type=\"a\",request_protocol=\"udp\","
                                   "source_canonical_service=\"shopper\",source_canonical_revision=\"r7\"} 30\n"));
}

TEST_CASE("whoever is not told of Istio's version shows its own") {
  for (const char* told : {"", "unknown"}) {
    Metrics metrics(1, {}, told);
    CHECK_THAT(metrics.render(),
               Catch::Contains("istio_build{component=\"ztunnel\",tag=\"" + build_info({}).version + "\"} 1\n"));
  }
}

TEST_CASE("histograms look as the peer's: sum, count, cumulative buckets with le first") {
  static constexpr double kBounds[] = {0.0005, 0.001, 1, 5};
  HistogramFamily family({"h_seconds", "Help.", "seconds", {"q"}}, kBounds);
  auto& histogram = family.get({"a"});
  for (const double value : {0.0004, 0.0005, 0.75, 10.0}) histogram.observe(value);
  std::string out;
  family.render(out);
  CHECK(out ==
        "# HELP h_seconds Help.\n# TYPE h_seconds histogram\n# UNIT h_seconds seconds\n"
        "h_seconds_sum{q=\"a\"} 10.7509\nh_seconds_count{q=\"a\"} 4\n"
        "h_seconds_bucket{le=\"0.0005\",q=\"a\"} 2\nh_seconds_bucket{le=\"0.001\",q=\"a\"} 2\n"
        "h_seconds_bucket{le=\"1.0\",q=\"a\"} 3\nh_seconds_bucket{le=\"5.0\",q=\"a\"} "
        "3\nh_seconds_bucket{le=\"+Inf\",q=\"a\"} 4\n");
}

TEST_CASE("families without series are left out") {
  std::string out;
  CounterFamily({"c", "Help.", "", {"l"}}).render(out);
  GaugeFamily({"g", "Help.", "", {}}).render(out);
  ComputedFamily({"f", "Help.", "", {}}, ComputedFamily::Type::kGauge, [](const auto&) {}).render(out);
  CHECK(out.empty());
}

TEST_CASE("computed families ask at the scrape") {
  ComputedFamily family({"zt_worker_busy_seconds", "Help.", "", {"worker"}}, ComputedFamily::Type::kCounter,
                        [](const ComputedFamily::Emit& emit) { emit({"0"}, 1.5), emit({"1"}, 2); });
  std::string out;
  family.render(out);
  CHECK(out ==
        "# HELP zt_worker_busy_seconds Help.\n# TYPE zt_worker_busy_seconds counter\n"
        "zt_worker_busy_seconds_total{worker=\"0\"} 1.5\nzt_worker_busy_seconds_total{worker=\"1\"} 2\n");
}

TEST_CASE("what the control thread publishes is what a scrape shows") {
  Metrics metrics(1, {}, "");
  RuntimeMetrics runtime(metrics, "vaes");
  CHECK_THAT(metrics.render(), Catch::Contains("zt_workloads 0\n"));
  RuntimeSample sample;
  sample.active_proxies = 5;
  sample.pending_proxies = 1;
  sample.proxies_started = 7;
  sample.proxies_stopped = 2;
  sample.agent_connected = true;
  sample.workloads = 35;
  sample.worker_connections = {3, 4};
  sample.certificates.fetch_successes = 8;
  sample.certificates.fetch_failures = 3;
  sample.certificates.fetch_timeouts = 1;
  sample.certificates.expiries = {{"spiffe://cluster.local/ns/shop/sa/web", identity::WallTime(1795488559s)}};
  sample.client_tunnels = 6;
  sample.server_tunnels = 9;
  sample.memory_held = 65536;
  sample.memory_promised = 1048576;
  sample.memory_limit = 268435456;
  sample.memory_cuts = 3;
  sample.longest_turns = {0.25, 0.001};
  sample.handover_stop = 0.004;
  runtime.publish(sample);
  const auto text = metrics.render();
  for (const char* line : {"workload_manager_active_proxy_count 5",
                           "workload_manager_pending_proxy_count 1",
                           "workload_manager_proxies_started_total 7",
                           "workload_manager_proxies_stopped_total 2",
                           "zt_agent_connected 1",
                           "zt_workloads 35",
                           "zt_worker_connections{worker=\"0\"} 3",
                           "zt_worker_connections{worker=\"1\"} 4",
                           "zt_certificate_fetches_total{result=\"ok\"} 8",
                           "zt_certificate_fetches_total{result=\"failed\"} 2",
                           "zt_certificate_fetches_total{result=\"timeout\"} 1",
                           "zt_certificate_expiration_timestamp_seconds{identity=\"spiffe://cluster.local/ns/shop/sa/web\"} "
                           "1795488559",
                           "zt_record_layer_info{aead=\"vaes\"} 1",
                           "# UNIT zt_memory_budget_bytes bytes",
                           "zt_memory_budget_bytes 268435456",
                           "zt_memory_held_bytes 65536",
                           "zt_memory_promised_bytes 1048576",
                           "zt_memory_cuts_total 3",
                           "zt_handover_longest_stop_seconds 0.004",
                           "zt_worker_longest_turn_seconds{worker=\"0\"} 0.25",
                           "zt_worker_longest_turn_seconds{worker=\"1\"} 0.001",
                           "zt_tunnels_open{role=\"client\"} 6",
                           "zt_tunnels_open{role=\"server\"} 9"}) {
    INFO(line);
    CHECK_THAT(text, Catch::Contains(std::string(line) + "\n"));
  }
}

TEST_CASE("label values are escaped, cut and made UTF-8") {
  const auto escaped = [](std::string_view value) {
    std::string out;
    append_label_value(out, value);
    return out;
  };
  CHECK(escaped("a\"b\\c\nd") == R"(a\"b\\c\nd)");
  CHECK(escaped("z\xff\u4e2d") == "z\ufffd\u4e2d");
  CHECK(escaped(std::string(5000, 'x')).size() == kMaxLabelBytes);
}

TEST_CASE("counter families are bounded") {
  CounterFamily family({"c", "Help.", "", {"l"}});
  for (size_t i = 0; i < CounterFamily::kMaxSeries + 10; ++i) family.get({std::to_string(i)}).add();
  std::string out;
  family.render(out);
  CHECK_THAT(out, Catch::Contains("c_total{l=\"overflow\"} 10\n"));
  CHECK(&family.get({"7"}) == &family.get({"7"}));
}

TEST_CASE("a handle closes once, whatever happens to it") {
  TrafficMetrics metrics(1, {});
  auto& cell = metrics.cell(0);
  auto first = cell.open(simple("a"));
  first.close(Reason::kPolicyDenied);
  first.close(Reason::kOk);
  first.add_sent(5);
  {
    auto dropped = cell.open(simple("a"));
    auto moved = std::move(dropped);
    CHECK_FALSE(dropped);
    moved.add_received(7);
  }
  const auto text = scrape(metrics);
  CHECK(value_of(text, "istio_tcp_connections_opened_total", "source_workload=\"a\"") == 2);
  CHECK(value_of(text, "istio_tcp_connections_closed_total", "response_flags=\"DENY\"") == 1);
  CHECK(value_of(text, "istio_tcp_connections_closed_total", "response_flags=\"-\"") == 1);
  CHECK(value_of(text, "istio_tcp_connections_failed_total", "response_flags=\"DENY\"") == 1);
  CHECK(value_of(text, "istio_tcp_sent_bytes_total", "source_workload=\"a\"") == 0);
  CHECK(value_of(text, "istio_tcp_received_bytes_total", "source_workload=\"a\"") == 7);
}

TEST_CASE("of a connection that goes on in another process the sums over both are those of one") {
  TrafficMetrics before(1, {}), after(1, {});
  TrafficHandle old = before.cell(0).open(simple("a"));
  old.add_received(100);
  TrafficHandle next = after.cell(0).adopt(simple("a"));
  old.forget();
  old.close(Reason::kDrained);
  next.add_received(11);
  next.add_sent(7);
  next.close(Reason::kOk);
  const auto old_text = scrape(before), new_text = scrape(after);
  const auto sum = [&](const char* name) {
    return value_of(old_text, name, "source_workload=\"a\"") + value_of(new_text, name, "source_workload=\"a\"");
  };
  CHECK(sum("istio_tcp_connections_opened_total") == 1);
  CHECK(sum("istio_tcp_received_bytes_total") == 111);
  CHECK(sum("istio_tcp_sent_bytes_total") == 7);
  CHECK_THAT(old_text, !Catch::Contains("istio_tcp_connections_closed_total{"));
  CHECK(value_of(new_text, "istio_tcp_connections_closed_total", "response_flags=\"-\"") == 1);
}

TEST_CASE("open sockets are counted by reporter while they live") {
  TrafficMetrics metrics(2, {});
  OpenSocket a(metrics.cell(0), Reporter::kSource);
  OpenSocket b(metrics.cell(1), Reporter::kSource);
  OpenSocket c(metrics.cell(1), Reporter::kDestination);
  a = std::move(b);
  const auto text = scrape(metrics);
  CHECK_THAT(text, Catch::Contains("istio_tcp_sockets_open{reporter=\"source\"} 1\n"));
  CHECK_THAT(text, Catch::Contains("istio_tcp_sockets_open{reporter=\"destination\"} 1\n"));
}

TEST_CASE("beyond the limit, connections are counted together") {
  TrafficMetrics metrics(1, {.series = 2, .idle = 900s});
  std::vector<TrafficHandle> handles;
  for (int i = 0; i < 10; ++i) handles.push_back(metrics.cell(0).open(simple("w" + std::to_string(i))));
  CHECK(metrics.series_count() == 2);
  CHECK(metrics.overflows() == 8);
  CHECK(value_of(scrape(metrics), "istio_tcp_connections_opened_total", "source_workload=\"overflow\"") == 8);
}

namespace {

TrafficLabels claimed(std::string_view workload, std::string_view identity) {
  TrafficLabels labels = simple(workload, Reporter::kDestination);
  labels.source.principal = labels.claimed_by = identity;
  labels.destination.workload = "server";
  return labels;
}

}  // namespace

TEST_CASE("what one identity claims leaves room for others, and is counted under its principal beyond its share") {
  TrafficMetrics metrics(2, {.series = 1000, .series_per_identity = 50, .idle = 0s});
  for (int i = 0; i < 5000; ++i)
    (void)metrics.cell(static_cast<size_t>(i) % 2)
        .open(claimed("forged-" + std::to_string(i), "spiffe://cluster.local/ns/bad/sa/bad"));
  (void)metrics.cell(0).open(claimed("honest", "spiffe://cluster.local/ns/shop/sa/honest"));
  (void)metrics.cell(1).open(simple("known", Reporter::kDestination));
  const auto text = scrape(metrics);
  const auto opened = [&](const std::string& labels) { return value_of(text, "istio_tcp_connections_opened_total", labels); };
  CHECK(opened("source_workload=\"honest\"") == 1);
  CHECK(opened("source_workload=\"known\"") == 1);
  CHECK(opened("source_workload=\"forged-49\"") == 1);
  CHECK(opened("source_workload=\"forged-50\"") == 0);
  const std::string folded =
      "source_workload=\"overflow\",source_canonical_service=\"overflow\",source_canonical_revision=\"overflow\","
      "source_workload_namespace=\"overflow\",source_principal=\"spiffe://cluster.local/ns/bad/sa/bad\"";
  CHECK(opened(folded) == 4950);
  CHECK(metrics.overflows() == 4950);
  CHECK(metrics.series_count() < 60);
  CHECK(text.size() < 200'000);
}

TEST_CASE("what all peers together claim leaves half of the series to workloads that are known") {
  TrafficMetrics metrics(1, {.series = 100, .series_per_identity = 50, .idle = 0s});
  for (int i = 0; i < 1000; ++i)
    (void)metrics.cell(0).open(
        claimed("forged-" + std::to_string(i), "spiffe://cluster.local/ns/bad/sa/" + std::to_string(i % 20)));
  // Besides the claims, each of the 20 has one under its principal.
  for (int i = 0; i < 30; ++i) (void)metrics.cell(0).open(simple("known-" + std::to_string(i), Reporter::kDestination));
  const auto text = scrape(metrics);
  for (int i = 0; i < 30; ++i) {
    const std::string name = "source_workload=\"known-" + std::to_string(i) + "\"";
    CHECK(value_of(text, "istio_tcp_connections_opened_total", name) == 1);
  }
}

TEST_CASE("claims that have gone idle and been dropped make room for new ones") {
  TrafficMetrics metrics(1, {.series = 100, .series_per_identity = 5, .idle = 60s});
  const auto start = Clock::now();
  const std::string_view who = "spiffe://cluster.local/ns/shop/sa/gateway";
  for (int i = 0; i < 5; ++i) (void)metrics.cell(0).open(claimed("old-" + std::to_string(i), who));
  (void)scrape(metrics, start);
  (void)scrape(metrics, start + 120s);
  for (int i = 0; i < 5; ++i) (void)metrics.cell(0).open(claimed("new-" + std::to_string(i), who));
  const auto text = scrape(metrics, start + 121s);
  for (int i = 0; i < 5; ++i)
    CHECK(value_of(text, "istio_tcp_connections_opened_total", "source_workload=\"new-" + std::to_string(i) + "\"") == 1);
  CHECK(metrics.overflows() == 0);
}

TEST_CASE("idle series go, once a scrape has shown their last value") {
  TrafficMetrics metrics(2, {.series = 100, .idle = 900s});
  const auto start = Clock::now();
  auto live = metrics.cell(0).open(simple("live"));
  metrics.cell(0).open(simple("gone")).close(Reason::kOk);
  metrics.cell(1).open(simple("gone")).close(Reason::kOk);
  const std::string opened = "istio_tcp_connections_opened_total";
  CHECK(value_of(scrape(metrics, start), opened, "\"gone\"") == 2);
  CHECK(value_of(scrape(metrics, start + 899s), opened, "\"gone\"") == 2);
  SECTION("the scrape at the deadline still shows it, the next does not") {
    CHECK(value_of(scrape(metrics, start + 901s), opened, "\"gone\"") == 2);
    CHECK(metrics.series_count() == 1);
    CHECK(value_of(scrape(metrics, start + 902s), opened, "\"gone\"") == 0);
    CHECK(value_of(scrape(metrics, start + 902s), opened, "\"live\"") == 1);
    auto again = metrics.cell(0).open(simple("gone"));
    CHECK(value_of(scrape(metrics, start + 903s), opened, "\"gone\"") == 1);
  }
  SECTION("a sample for others than Prometheus leaves it to be shown") {
    std::ignore = metrics.sample(start + 901s, false);
    CHECK(metrics.series_count() == 3);
    CHECK(value_of(scrape(metrics, start + 902s), opened, "\"gone\"") == 2);
    CHECK(metrics.series_count() == 1);
  }
  SECTION("use in between keeps it") {
    metrics.cell(1).open(simple("gone")).close(Reason::kOk);
    CHECK(value_of(scrape(metrics, start + 901s), opened, "\"gone\"") == 3);
    CHECK(value_of(scrape(metrics, start + 1700s), opened, "\"gone\"") == 3);
    CHECK(metrics.series_count() == 3);
  }
}

TEST_CASE("idle series of workloads that still exist stay, and are not asked about at every scrape") {
  TrafficMetrics metrics(1, {.series = 100, .idle = 160s});
  std::set<std::string> asked, exist{"shop/here", "shop/later-gone"};
  int times = 0;
  metrics.keep_existing([&](TrafficMetrics::WorkloadNames& names) {
    ++times;
    std::erase_if(names, [&](const auto& name) {
      const auto text = std::string(name.ns) + "/" + std::string(name.workload);
      asked.insert(text);
      return exist.contains(text);
    });
  });
  const auto start = Clock::now();
  const auto opened_at = [&](auto after, const std::string& workload) {
    return value_of(scrape(metrics, start + after), "istio_tcp_connections_opened_total", '"' + workload + '"');
  };
  for (const char* name : {"here", "gone", "later-gone"}) metrics.cell(0).open(simple(name)).close(Reason::kOk);
  scrape(metrics, start);
  scrape(metrics, start + 159s);
  CHECK(times == 0);
  scrape(metrics, start + 161s);
  CHECK(asked == std::set<std::string>{"shop/here", "shop/gone", "shop/later-gone"});
  CHECK(opened_at(162s, "gone") == 0);
  CHECK(opened_at(162s, "here") == 1);
  CHECK(metrics.series_count() == 2);
  exist.erase("shop/later-gone");
  scrape(metrics, start + 165s);
  CHECK(times == 1);
  scrape(metrics, start + 171s);
  CHECK(times == 2);
  CHECK(opened_at(172s, "later-gone") == 0);
  CHECK(opened_at(172s, "here") == 1);
}

TEST_CASE("a gone workload's series that were counted on while they were being dropped go later, all of them") {
  TrafficMetrics metrics(1, {.series = 100, .idle = 160s});
  // Their texts, in which the workload's name is looked up, then belong to nobody but the totals.
  const std::array<std::string, 8> destinations{"a", "b", "c", "d", "e", "f", "g", "h"};
  const auto count_on_each = [&] {
    for (const std::string& destination : destinations) {
      TrafficLabels labels = simple("gone");
      labels.destination.workload = destination;
      metrics.cell(0).open(labels).close(Reason::kOk);
    }
  };
  const auto start = Clock::now();
  bool late = true;
  metrics.keep_existing([&](TrafficMetrics::WorkloadNames&) {
    if (std::exchange(late, false)) count_on_each();
  });
  count_on_each();
  scrape(metrics, start);
  scrape(metrics, start + 161s);
  metrics.cell(0).open(simple("other")).close(Reason::kOk);  // the worker lets go of them
  CHECK(value_of(scrape(metrics, start + 162s), "istio_tcp_connections_opened_total", "\"a\"") == 2);
  scrape(metrics, start + 400s);
  CHECK(scrape(metrics, start + 401s).find("\"gone\"") == std::string::npos);
}

TEST_CASE("eviction makes room under the limit, whether the workloads exist or not") {
  TrafficMetrics metrics(1, {.series = 2, .idle = 1s});
  if (GENERATE(false, true)) metrics.keep_existing([](TrafficMetrics::WorkloadNames& names) { names.clear(); });
  auto now = Clock::now();
  for (int round = 0; round < 50; ++round) {
    for (const char* name : {"a", "b"}) metrics.cell(0).open(simple(name + std::to_string(round))).close(Reason::kOk);
    scrape(metrics, now);
    scrape(metrics, now += 2s);
  }
  CHECK(metrics.overflows() == 0);
  CHECK(metrics.series_count() == 0);
}

TEST_CASE("thousands of dropped series are let go of a few at a time, and one that comes back is new") {
  TrafficMetrics metrics(1, {.series = 10'000, .idle = 60s});
  const auto start = Clock::now();
  for (int i = 0; i < 3000; ++i) (void)metrics.cell(0).open(simple("w-" + std::to_string(i)));
  (void)scrape(metrics, start);
  (void)scrape(metrics, start + 120s);
  CHECK(metrics.series_count() == 0);
  for (int i = 2999; i >= 0; --i) (void)metrics.cell(0).open(simple("w-" + std::to_string(i)));
  CHECK(metrics.series_count() == 3000);
  const auto text = scrape(metrics, start + 121s);
  CHECK(value_of(text, "istio_tcp_connections_opened_total", "source_workload=\"w-7\"") == 1);
  CHECK(value_of(text, "istio_tcp_connections_opened_total", "source_workload=\"w-2999\"") == 1);
}

TEST_CASE("workers count while scrapes and evictions go on") {
  const bool evict = GENERATE(false, true);
  constexpr int kWorkers = 3;
  constexpr uint64_t kConnections = 4000;
  TrafficMetrics metrics(kWorkers, {.series = 1000, .idle = evict ? 1s : 0s});
  std::atomic<int> running{kWorkers};
  std::vector<std::thread> workers;
  for (int w = 0; w < kWorkers; ++w) {
    workers.emplace_back([&, w] {
      for (uint64_t i = 0; i < kConnections; ++i) {
        auto handle = metrics.cell(static_cast<size_t>(w)).open(simple("w" + std::to_string(i % 5)));
        handle.add_sent(3);
        handle.close(i % 2 == 0 ? Reason::kOk : Reason::kConnectFailed);
      }
      running.fetch_sub(1);
    });
  }
  // Every scrape is "later than idle", so series are evicted all the time; a series that comes back starts at
  // 0, and a fall means a new start. A new start that has passed the old value by the next scrape cannot be
  // told from going on.
  std::map<std::string, uint64_t> before;
  uint64_t counted = 0;
  auto now = Clock::now();
  const auto take = [&] {
    std::map<std::string, uint64_t> seen;
    for (const auto& line : lines_of(scrape(metrics, now += 2s))) {
      if (line.starts_with("istio_tcp_connections_opened_total{")) {
        seen[line.substr(0, line.rfind(' '))] = std::stoull(line.substr(line.rfind(' ')));
      }
    }
    for (const auto& [series, value] : seen) {
      const auto last = before.find(series);
      counted += last != before.end() && value >= last->second ? value - last->second : value;
    }
    before = seen;
  };
  while (running.load() > 0) take();
  for (auto& worker : workers) worker.join();
  take();
  if (evict) {
    CHECK(counted <= kWorkers * kConnections);
    CHECK(metrics.overflows() == 0);
  } else {
    CHECK(counted == kWorkers * kConnections);
    CHECK(metrics.series_count() == 5 * kWorkers);
  }
}
