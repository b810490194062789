#include "ztunnel/admin/live_feed.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include "base/json_writer.h"
#include "ztunnel/telemetry/traffic_labels.h"

namespace zt::ztunnel {
namespace {

constexpr std::chrono::milliseconds kTake{200};
constexpr std::chrono::milliseconds kSampleEvery{1000};
constexpr size_t kPieceBytes = 64 << 10;

using Out = std::back_insert_iterator<std::string>;

// Members of a JSON object in one line, one after the other: an event of SSE is a line.
class Members {
 public:
  explicit Members(std::string& out) : out_(out) {}
  void text(std::string_view name, std::string_view value) {
    if (value.empty()) return;
    key(name);
    out_ += '"';
    append_json_escaped(out_, value);
    out_ += '"';
  }
  void number(std::string_view name, uint64_t value) {
    key(name);
    fmt::format_to(Out(out_), "{}", value);
  }
  void real(std::string_view name, double value) {
    key(name);
    fmt::format_to(Out(out_), "{:.6g}", value);
  }
  void boolean(std::string_view name, bool value) {
    key(name);
    out_ += value ? "true" : "false";
  }
  void key(std::string_view name) {
    if (!out_.empty() && out_.back() != '{') out_ += ',';
    fmt::format_to(Out(out_), "\"{}\":", name);
  }

 private:
  std::string& out_;
};

std::string_view known(std::string_view value) { return value == kUnknownLabel ? std::string_view{} : value; }

std::string_view service_account_of(std::string_view principal) {
  constexpr std::string_view kPart = "/sa/";
  const auto at = principal.rfind(kPart);
  return at == std::string_view::npos ? std::string_view{} : principal.substr(at + kPart.size());
}

std::string fixed_members(std::string_view labels, uint64_t number) {
  std::string out;
  Members members(out);
  members.number("id", number);
  const auto label = [&](std::string_view name, std::string_view of) { members.text(name, known(label_in(labels, of))); };
  // A workload without a name of its own is called by its service account.
  const auto name = [&](std::string_view member, std::string_view workload, std::string_view principal) {
    const auto named = known(label_in(labels, workload));
    members.text(member, named.empty() ? service_account_of(known(label_in(labels, principal))) : named);
  };
  label("r", "reporter");
  label("sn", "source_workload_namespace");
  name("s", "source_workload", "source_principal");
  label("si", "source_principal");
  label("dn", "destination_workload_namespace");
  name("d", "destination_workload", "destination_principal");
  label("di", "destination_principal");
  label("svc", "destination_service");
  // The label may be one that the configuration hides.
  const auto security = label_in(labels, "connection_security_policy");
  members.text("path", label_in(labels, "zt_path") == "local" ? "local"
                       : security == "mutual_tls"             ? "hbone"
                       : security.empty()                     ? "hidden"
                                                              : "plain");
  return out;
}

std::string event_text(const LiveEvent& event) {
  std::string out = "event: connection\ndata: {";
  Members members(out);
  constexpr std::array<std::string_view, 3> kKinds{"opened", "closed", "refused"};
  members.text("kind", kKinds.at(static_cast<size_t>(event.kind)));
  members.number(
      "t", static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(event.time.time_since_epoch()).count()));
  members.text("dir", event.outbound ? "outbound" : "inbound");
  members.text("path", event.path);
  members.text("src", event.source.to_string());
  members.text("dst", event.destination.to_string());
  members.text("sn", event.source_namespace);
  members.text("s", event.source_workload);
  members.text("si", event.source_identity);
  members.text("dn", event.destination_namespace);
  members.text("d", event.destination_workload);
  members.text("di", event.destination_identity);
  members.text("svc", event.service);
  if (event.kind != LiveEvent::Kind::kOpened) {
    members.text("reason", reason_info(event.reason).name);
    members.text("flag", reason_info(event.reason).response_flag);
    members.text("error", event.error);
    members.number("tx", event.sent);
    members.number("rx", event.received);
    members.number("ms", static_cast<uint64_t>(event.duration.count()));
  }
  out += "}\n\n";
  return out;
}

void append_histogram(std::string& out, const HistogramFamily& family, std::string_view name) {
  for (const auto& series : family.buckets()) {
    if (out.back() != '[') out += ',';
    out += '{';
    Members members(out);
    members.text("name", name);
    members.text("labels", series.labels);
    members.key("le");
    fmt::format_to(Out(out), "[{}],\"n\":[{}]", fmt::join(family.bounds(), ","), fmt::join(series.counts, ","));
    out += '}';
  }
}

}  // namespace

HttpResponse LiveFeed::open() {
  if (watchers_ >= kMostWatchers) {
    return HttpResponse::text(503, fmt::format("{} watch already, which is as many as may\n", kMostWatchers));
  }
  ++watchers_;
  metrics_.live.watch(true);
  struct Watch {
    std::weak_ptr<LiveFeed*> feed;
    Watcher watcher;
    ~Watch() {
      if (const auto alive = feed.lock()) (*alive)->leave();
    }
  };
  auto watch = std::make_unique<Watch>();
  watch->feed = self_;
  watch->watcher.next_event = first_event_ + events_.size();
  HttpResponse response;
  response.content_type = "text/event-stream";
  response.headers.emplace_back("cache-control", "no-store");
  response.poll = kPoll;
  response.more = [watch = std::move(watch)](std::string& out) {
    const auto alive = watch->feed.lock();
    if (!alive) return false;
    (*alive)->append(watch->watcher, out);
    return true;
  };
  return response;
}

void LiveFeed::leave() {
  if (--watchers_ > 0) return;
  metrics_.live.watch(false);
  events_.clear();
  pairs_.clear();
  samples_ = 0;
  sampled_ = refreshed_ = {};
  now_.reset();
}

void LiveFeed::append(Watcher& watcher, std::string& out) {
  refresh();
  if (!watcher.begun || watcher.next_sample < samples_) {
    // The first one has all pairs; then come those that changed since the one before.
    out += sample_text(watcher.begun ? watcher.next_sample : 0);
    watcher.begun = true;
    watcher.next_sample = samples_;
  }
  if (watcher.next_event < first_event_) {
    fmt::format_to(Out(out), "event: gap\ndata: {}\n\n", first_event_ - watcher.next_event);
    watcher.next_event = first_event_;
  }
  while (watcher.next_event < first_event_ + events_.size() && out.size() < kPieceBytes) {
    out += events_[watcher.next_event++ - first_event_];
  }
}

// For all watchers together, whichever of them asks first.
void LiveFeed::refresh() {
  const auto now = Clock::now();
  if (now - refreshed_ < kTake) return;
  refreshed_ = now;
  take_events();
  if (now - sampled_ < kSampleEvery) return;
  sampled_ = now;
  take_sample();
}

void LiveFeed::take_events() {
  uint64_t left_out = 0;
  auto events = metrics_.live.take(left_out);
  left_out_ += left_out;
  std::ranges::stable_sort(events, {}, [](const auto& event) { return event->time; });
  for (const auto& event : events) events_.push_back(event_text(*event));
  while (events_.size() > kKept) {
    events_.pop_front();
    ++first_event_;
  }
}

void LiveFeed::take_sample() {
  ++samples_;
  now_ = runtime_.latest();
  for (const auto& row : metrics_.traffic.sample(Clock::now(), false)->rows) {
    Pair& pair = pairs_[row.labels.get()];
    // Another set may have come where one was that is gone.
    if (pair.number == 0 || pair.labels.lock() != row.labels) {
      pair = {.number = ++pair_numbers_, .labels = row.labels, .fixed = {}, .counts = {}, .changed = 0, .seen = 0};
      pair.fixed = fixed_members(labels_text(row), pair.number);
      pair.changed = samples_;
    }
    if (pair.counts != row.counts) pair.changed = samples_;
    pair.counts = row.counts;
    pair.seen = samples_;
  }
  std::erase_if(pairs_, [&](const auto& entry) { return entry.second.seen != samples_; });
}

std::string LiveFeed::sample_text(uint64_t since) const {
  std::string out = "event: sample\ndata: {";
  Members members(out);
  const RuntimeSample& sample = *now_;
  members.number(
      "t",
      static_cast<uint64_t>(
          std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count()));
  members.text("node", node_.name);
  members.text("version", node_.version);
  members.boolean("all", since == 0);
  members.boolean("agent", sample.agent_connected);
  if (sample.xds) members.boolean("xds", sample.xds->connected);
  members.number("workloads", sample.workloads);
  members.number("services", sample.services);
  members.number("policies", sample.policies);
  members.number("connections", std::accumulate(sample.worker_connections.begin(), sample.worker_connections.end(), uint64_t{0}));
  members.number("clientTunnels", sample.client_tunnels);
  members.number("serverTunnels", sample.server_tunnels);
  members.number("handshakes", sample.handshakes);
  members.number("memory", sample.memory_held);
  members.number("memoryLimit", sample.memory_limit);
  members.number("memoryCuts", sample.memory_cuts);
  members.number("leftOut", left_out_);
  members.real("longestTurn",
               sample.longest_turns.empty() ? 0 : *std::max_element(sample.longest_turns.begin(), sample.longest_turns.end()));
  members.key("pods");
  out += '[';
  for (const PodUse& pod : sample.pods) {
    out += out.back() == '[' ? "{" : ",{";
    Members of_pod(out);
    of_pod.text("uid", pod.uid);
    of_pod.text("ns", pod.ns);
    of_pod.text("name", pod.name);
    of_pod.text("sa", pod.service_account);
    of_pod.number("connections", pod.connections);
    of_pod.number("tunnels", pod.tunnels);
    of_pod.number("memory", pod.memory);
    out += '}';
  }
  out += ']';
  members.key("certificates");
  out += '[';
  for (const auto& [identity, not_after] : sample.certificates.expiries) {
    out += out.back() == '[' ? "{" : ",{";
    Members of_certificate(out);
    of_certificate.text("identity", identity);
    of_certificate.number(
        "expires",
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(not_after.time_since_epoch()).count()));
    out += '}';
  }
  out += ']';
  members.key("latency");
  out += '[';
  append_histogram(out, metrics_.connect_duration, "connect");
  append_histogram(out, metrics_.handshake_duration, "handshake");
  append_histogram(out, metrics_.pool_wait, "pool wait");
  append_histogram(out, metrics_.certificate_wait, "certificate wait");
  append_histogram(out, metrics_.first_byte, "first byte");
  append_histogram(out, metrics_.stall, "stall");
  out += ']';
  std::vector<const Pair*> pairs;
  for (const auto& [labels, pair] : pairs_) {
    if (pair.changed > since) pairs.push_back(&pair);
  }
  // The latest first, if not all can be shown.
  std::ranges::sort(pairs, [](const Pair* a, const Pair* b) {
    return a->changed != b->changed ? a->changed > b->changed : a->number < b->number;
  });
  members.number("pairs_left_out", pairs.size() - std::min(pairs.size(), kMostPairs));
  members.key("pairs");
  out += '[';
  for (size_t i = 0; i < std::min(pairs.size(), kMostPairs); ++i) {
    const TrafficCounts& counts = pairs[i]->counts;
    out.append(i == 0 ? "{" : ",{").append(pairs[i]->fixed);
    Members of_pair(out);
    of_pair.number("o", counts[kCountOpened]);
    of_pair.number("c", std::accumulate(counts.begin() + kCountClosed, counts.end(), uint64_t{0}));
    of_pair.number("tx", counts[kCountReceived]);  // what the client sent, the server received
    of_pair.number("rx", counts[kCountSent]);
    std::string flags;
    for (size_t flag = 1; flag < kResponseFlags; ++flag) {
      if (counts.at(kCountClosed + flag) == 0) continue;
      fmt::format_to(Out(flags), "{}\"{}\":{}", flags.empty() ? "" : ",", response_flag_names().at(flag),
                     counts.at(kCountClosed + flag));
    }
    if (!flags.empty()) out.append(",\"f\":{").append(flags).append("}");
    out += '}';
  }
  out += "]}\n\n";
  return out;
}

}  // namespace zt::ztunnel
