#include <catch2/catch.hpp>
#include <thread>

#include "mesh/reason.h"
#include "ztunnel/telemetry/metrics_registry.h"
#include "ztunnel/telemetry/traffic_labels.h"

using namespace zt;
using namespace zt::ztunnel;

namespace {

TrafficLabels of(std::string_view workload, std::string_view service) {
  TrafficLabels labels;
  labels.source.workload = workload;
  labels.source.ns = "shop";
  labels.service = service;
  return labels;
}

size_t count(std::string_view text, std::string_view what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("a scrape of a hundred thousand label sets comes in pieces of bounded size while connections open") {
  constexpr size_t kSets = 100'000;
  Metrics metrics(2, {.series = kSets + 10}, "");
  for (size_t i = 0; i < kSets; ++i) {
    metrics.traffic.cell(i % 2).open(of("w" + std::to_string(i), "")).close(Reason::kOk);
  }
  std::atomic<bool> ended = false;
  // A worker goes on counting: no scrape is waited for.
  std::thread worker([&] {
    while (!ended) metrics.traffic.cell(0).open(of("w0", "")).close(Reason::kConnectFailed);
  });
  auto more = metrics.scrape();
  size_t opened = 0, closed = 0, largest = 0;
  std::string piece;
  for (bool again = true; again;) {
    piece.clear();
    again = more(piece);
    largest = std::max(largest, piece.size());
    opened += count(piece, "\nistio_tcp_connections_opened_total{");
    closed += count(piece, "\nistio_tcp_connections_closed_total{");
    // The first line of a piece has no line before it.
    opened += piece.starts_with("istio_tcp_connections_opened_total{") ? 1 : 0;
    closed += piece.starts_with("istio_tcp_connections_closed_total{") ? 1 : 0;
  }
  ended = true;
  worker.join();
  CHECK(opened == kSets);
  CHECK(closed >= kSets);
  CHECK(largest < 80 << 10);
  CHECK(piece.ends_with("# EOF\n"));
}

TEST_CASE("all traffic in a scrape is of the moment of its beginning") {
  Metrics metrics(1, {}, "");
  metrics.traffic.cell(0).open(of("a", "")).close(Reason::kOk);
  auto more = metrics.scrape();
  metrics.traffic.cell(0).open(of("a", "")).close(Reason::kOk);
  metrics.traffic.cell(0).open(of("b", "")).close(Reason::kOk);
  std::string text;
  while (more(text)) {
  }
  CHECK(count(text, "istio_tcp_connections_opened_total{") == 1);
  CHECK(text.find("connection_security_policy=\"unknown\"} 1\n") != std::string::npos);
}

TEST_CASE("scrapes that are not read cost no more than a few samples, and the oldest is broken off") {
  Metrics metrics(1, {}, "");
  std::string out;
  auto oldest = metrics.scrape();
  CHECK(oldest(out));
  std::vector<std::move_only_function<bool(std::string&)>> others;
  for (size_t i = 1; i < Metrics::kMostScrapes; ++i) others.push_back(metrics.scrape());
  CHECK(oldest(out));
  others.push_back(metrics.scrape());
  CHECK_THROWS(oldest(out));
  for (auto& other : others) CHECK(other(out));
  // One that has ended makes room.
  others.clear();
  auto next = metrics.scrape();
  for (size_t i = 1; i < Metrics::kMostScrapes; ++i) others.push_back(metrics.scrape());
  CHECK(next(out));
}

TEST_CASE("labels that are not on the list are not shown, and what differs in them only is one series") {
  Metrics metrics(1, {.labels = {"source_workload", "destination_service_name"}}, "");
  for (const char* service : {"x", "y"}) metrics.traffic.cell(0).open(of("a", service)).close(Reason::kPolicyDenied);
  const auto text = metrics.render();
  CHECK(text.find(
            "istio_tcp_connections_closed_total{reporter=\"source\",source_workload=\"a\",destination_service_name=\"unknown\","
            "response_flags=\"DENY\"} 2\n") != std::string::npos);
  CHECK(metrics.traffic.series_count() == 1);
}

TEST_CASE("idle series go also if their workloads are not shown") {
  Metrics metrics(1, {.labels = {"destination_service_name"}, .idle = std::chrono::seconds(10)}, "");
  metrics.traffic.keep_existing([](TrafficMetrics::WorkloadNames& names) { CHECK(names.empty()); });
  const auto start = Metrics::Clock::now();
  metrics.traffic.cell(0).open(of("a", "x")).close(Reason::kOk);
  std::ignore = metrics.render(start);
  std::ignore = metrics.render(start + std::chrono::seconds(20));
  CHECK(metrics.traffic.series_count() == 1);
}
