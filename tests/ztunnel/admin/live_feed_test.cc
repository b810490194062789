#include "ztunnel/admin/live_feed.h"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch.hpp>
#include <thread>

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

namespace {

// What one watcher is sent until `what` is in it.
std::string read_until(HttpResponse& watcher, std::string_view what) {
  std::string out;
  for (int tries = 0; tries < 400 && out.find(what) == std::string::npos; ++tries) {
    REQUIRE(watcher.more(out));
    std::this_thread::sleep_for(10ms);
  }
  INFO(out);
  REQUIRE(out.find(what) != std::string::npos);
  return out;
}

boost::json::object data_of(const std::string& text, std::string_view event) {
  const std::string begin = "event: " + std::string(event) + "\ndata: ";
  const auto at = text.find(begin);
  REQUIRE(at != std::string::npos);
  const auto from = at + begin.size();
  return boost::json::parse(text.substr(from, text.find("\n\n", from) - from)).as_object();
}

std::unique_ptr<LiveEvent> closed(std::string error) {
  auto event = std::make_unique<LiveEvent>();
  event->kind = LiveEvent::Kind::kClosed;
  event->reason = Reason::kPolicyDenied;
  event->source = {*IpAddress::parse("10.0.0.1"), 4000};
  event->error = std::move(error);
  return event;
}

struct Fixture {
  Metrics metrics{1, {}, ""};
  RuntimeMetrics runtime{metrics, "evp"};
};

}  // namespace

TEST_CASE("nobody who watches costs a worker nothing, and who leaves is nobody") {
  Fixture f;
  LiveFeed feed(f.metrics, f.runtime, {"node-1", "1"});
  CHECK_FALSE(f.metrics.live.watched());
  {
    auto first = feed.open();
    auto second = feed.open();
    CHECK(first.content_type == "text/event-stream");
    CHECK(first.poll > 0ms);
    CHECK(f.metrics.live.watched());
  }
  CHECK_FALSE(f.metrics.live.watched());
}

TEST_CASE("what nobody has taken goes with the last watcher") {
  LiveEvents live(1);
  live.watch(true);
  live.push(0, closed("x"));
  live.watch(false);
  uint64_t left_out = 0;
  CHECK(live.take(left_out).empty());
}

TEST_CASE("a pair whose labels do not tell how it is connected is not called plain") {
  Metrics metrics{1, {.labels = {"source_workload"}}, ""};
  RuntimeMetrics runtime{metrics, "evp"};
  LiveFeed feed(metrics, runtime, {});
  TrafficLabels labels;
  labels.source.workload = "web";
  labels.mutual_tls = true;
  metrics.traffic.cell(0).open(labels).close(Reason::kOk);
  auto watcher = feed.open();
  const auto sample = data_of(read_until(watcher, "event: sample"), "sample");
  CHECK(sample.at("pairs").as_array().at(0).as_object().at("path").as_string() == "hidden");
}

TEST_CASE("as many watch as may, and one more may when one has left") {
  Fixture f;
  LiveFeed feed(f.metrics, f.runtime, {});
  std::vector<HttpResponse> watchers;
  for (size_t i = 0; i < LiveFeed::kMostWatchers; ++i) watchers.push_back(feed.open());
  CHECK(feed.open().status == 503);
  watchers.pop_back();
  CHECK(feed.open().status == 200);
}

TEST_CASE("what a watcher is sent of pairs, pods and connections is JSON, whatever names there are") {
  Fixture f;
  LiveFeed feed(f.metrics, f.runtime, {"node-1", "7"});
  RuntimeSample sample;
  sample.pods.push_back({.uid = "u", .ns = "shop", .name = "web\"\n</script>", .connections = 3, .memory = 17});
  sample.longest_turns = {0.5};
  f.runtime.publish(sample);
  TrafficLabels labels;
  labels.source.workload = "a<b>";
  labels.source.ns = "shop";
  labels.mutual_tls = true;
  auto& cell = f.metrics.traffic.cell(0);
  cell.open(labels).close(Reason::kPolicyDenied);
  auto open = cell.open(labels);
  open.add_received(5);
  auto watcher = feed.open();
  const auto first = data_of(read_until(watcher, "event: sample"), "sample");
  CHECK(first.at("all").as_bool());
  CHECK(first.at("node").as_string() == "node-1");
  CHECK(first.at("pods").as_array().at(0).as_object().at("name").as_string() == "web\"\n</script>");
  CHECK(first.at("pods").as_array().at(0).as_object().at("memory").to_number<int>() == 17);
  const auto& pair = first.at("pairs").as_array().at(0).as_object();
  CHECK(pair.at("s").as_string() == "a<b>");
  CHECK(pair.at("path").as_string() == "hbone");
  CHECK(pair.at("o").to_number<int>() == 2);
  CHECK(pair.at("c").to_number<int>() == 1);
  CHECK(pair.at("tx").to_number<int>() == 5);
  CHECK(pair.at("f").as_object().at("DENY").to_number<int>() == 1);
  CHECK_FALSE(pair.contains("d"));
  // The next sample has what changed only.
  f.metrics.live.push(0, closed("it says \"no\"\n\n"));
  const auto text = read_until(watcher, "event: sample");
  CHECK_FALSE(data_of(text, "sample").at("all").as_bool());
  CHECK(data_of(text, "sample").at("pairs").as_array().empty());
  const auto event = data_of(text + read_until(watcher, ""), "connection");
  CHECK(event.at("kind").as_string() == "closed");
  CHECK(event.at("src").as_string() == "10.0.0.1:4000");
  CHECK(event.at("reason").as_string() == "policy_denied");
  CHECK(event.at("error").as_string() == "it says \"no\"\n\n");
}

TEST_CASE("what does not fit a ring or is too much for a slow watcher is counted and left out") {
  Fixture f;
  LiveFeed feed(f.metrics, f.runtime, {});
  auto watcher = feed.open();
  auto slow = feed.open();
  read_until(watcher, "event: sample");
  for (size_t i = 0; i < LiveEvents::kRing + 10; ++i) f.metrics.live.push(0, closed("x"));
  const auto text = read_until(watcher, "\"leftOut\":10");
  CHECK(text.find("event: connection") != std::string::npos);
  for (size_t round = 0; round < 3; ++round) {
    for (size_t i = 0; i < LiveEvents::kRing; ++i) f.metrics.live.push(0, closed("x"));
    std::this_thread::sleep_for(210ms);
    std::string out;
    REQUIRE(watcher.more(out));
    CHECK(out.size() < 128 << 10);
  }
  std::string out;
  REQUIRE(slow.more(out));
  CHECK(out.find("event: gap") != std::string::npos);
}

TEST_CASE("a watcher that outlives its feed is told that this was all") {
  Fixture f;
  HttpResponse watcher;
  {
    LiveFeed feed(f.metrics, f.runtime, {});
    watcher = feed.open();
  }
  std::string out;
  CHECK_FALSE(watcher.more(out));
}
