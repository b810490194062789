#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <random>

#include "mesh/reason.h"
#include "ztunnel/telemetry/metrics.h"
#include "ztunnel/telemetry/metrics_families.h"
#include "ztunnel/telemetry/metrics_text.h"
#include "ztunnel/telemetry/traffic_labels.h"

namespace zt::ztunnel {
namespace {

constexpr int32_t kRetired = -1;
constexpr size_t kNoClaim = SIZE_MAX;

size_t flag_index(Reason reason) {
  const auto& names = response_flag_names();
  const auto found = std::ranges::find(names, reason_info(reason).response_flag);
  return found == names.end() ? 0 : static_cast<size_t>(found - names.begin());
}

}  // namespace

size_t TrafficMetrics::WorkloadNameHash::operator()(const WorkloadName& name) const {
  const std::hash<std::string_view> hash;
  return hash(name.ns) * 31 + hash(name.workload);
}

struct SeriesLabels {
  std::string text;    // "{reporter=…}" without the response flag
  size_t flag_at = 0;  // where that goes
};

// One label set's counters on one worker. Owned by two: the list that scrapes walk, and the worker's table.
// The worker takes part in `users` before it counts; a scrape may set it from 0 to kRetired, and then the
// worker never counts here again.
struct TrafficSeries {
  std::shared_ptr<const SeriesLabels> labels;
  std::array<std::atomic<uint64_t>, std::tuple_size_v<TrafficCounts>> counts{};
  std::atomic<int32_t> users{0};
  std::atomic<int> owners{2};
  size_t claim_slot = kNoClaim;  // of TrafficMetrics
  // Of the scraping thread, once the series is in the list.
  TrafficSeries* next = nullptr;
  TrafficSeries* next_retired = nullptr;
  SeriesTotal* total = nullptr;
  bool dead = false;

  // Only the worker that owns the series writes, so a load and a store do.
  void count(size_t index, uint64_t n) {
    auto& cell = counts[index];
    cell.store(cell.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  bool enter() {
    int32_t users_now = users.load(std::memory_order_relaxed);
    while (users_now != kRetired) {
      if (users.compare_exchange_weak(users_now, users_now + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    }
    return false;
  }
  void leave() { users.fetch_sub(1, std::memory_order_release); }
  static void drop(TrafficSeries* series) {
    if (series->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete series;
  }
};

// One label set over all workers.
struct SeriesTotal {
  std::shared_ptr<const SeriesLabels> labels;
  std::vector<TrafficSeries*> series;
  TrafficCounts retired{};  // of series that have been taken away: the sum never falls
  TrafficCounts sum{};
  bool in_use = false;
  TrafficMetrics::Clock::time_point last_change;
};

std::string_view reporter_name(Reporter reporter) { return reporter == Reporter::kSource ? "source" : "destination"; }

const std::array<std::string_view, kResponseFlags>& response_flag_names() {
  static constexpr std::array<std::string_view, kResponseFlags> kNames{
      "-", "DENY", "CONNECT", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "NETWORK_POLICY", "IDENTITY_ERROR", "CERT_REVOKED"};
  return kNames;
}

// ---- Worker

// A count is a load and a store of this worker's own memory: 2.7 ns, where counters that workers share, as those of Prometheus's
// libraries, take 8.9 with two of them at it (bench/own_code_bench.cc, two loaded cores).

void TrafficHandle::add_received(uint64_t bytes) {
  if (series_ != nullptr) series_->count(kCountReceived, bytes);
}

void TrafficHandle::add_sent(uint64_t bytes) {
  if (series_ != nullptr) series_->count(kCountSent, bytes);
}

void TrafficHandle::close(Reason reason) {
  if (series_ == nullptr) return;
  series_->count(kCountClosed + flag_index(reason), 1);
  std::exchange(series_, nullptr)->leave();
}

void TrafficHandle::forget() {
  if (series_ != nullptr) std::exchange(series_, nullptr)->leave();
}

TrafficHandle TrafficCell::open(const TrafficLabels& labels) {
  TrafficHandle handle = adopt(labels);
  handle.series_->count(kCountOpened, 1);
  return handle;
}

TrafficHandle TrafficCell::adopt(const TrafficLabels& labels) {
  drop_some_retired();
  TrafficSeries* series = find_or_add(labels);
  if (series == nullptr) {
    owner_.overflows_.fetch_add(1, std::memory_order_relaxed);
    if (!labels.claimed_by.empty()) {
      TrafficLabels folded = labels;
      folded.source = overflow_labels(labels.reporter).source;
      folded.source.principal = labels.source.principal;
      folded.claimed_by = {};
      series = find_or_add(folded);
    }
    if (series == nullptr) series = overflow(labels.reporter);
  }
  return TrafficHandle(series);
}

TrafficSeries* TrafficCell::find_or_add(const TrafficLabels& labels) {
  static thread_local std::string text;
  size_t flag_at = 0;
  render_labels(text, labels, owner_.shown_, flag_at);
  if (TrafficSeries* const series = find(text)) return series;

  const bool claimed = !labels.claimed_by.empty();
  const size_t slot = claimed ? owner_.claim_slot(labels.claimed_by) : kNoClaim;
  if (claimed && !owner_.take_claim(slot)) return nullptr;
  if (owner_.series_count_.fetch_add(1, std::memory_order_relaxed) >= owner_.limits_.series) {
    owner_.series_count_.fetch_sub(1, std::memory_order_relaxed);
    if (claimed) owner_.give_back_claim(slot);
    return nullptr;
  }
  TrafficSeries* const series = add_series(text, flag_at);
  series->claim_slot = slot;
  by_labels_.emplace(series->labels->text, series);
  return series;
}

TrafficSeries* TrafficCell::find(std::string_view text) {
  const auto found = by_labels_.find(text);
  if (found == by_labels_.end()) return nullptr;
  if (found->second->enter()) return found->second;
  by_labels_.erase(found);  // retired; drop_some_retired() lets go of it
  return nullptr;
}

TrafficSeries* TrafficCell::overflow(Reporter reporter) {
  auto& series = overflow_[static_cast<size_t>(reporter)];
  if (series == nullptr) {
    std::string text;
    size_t flag_at = 0;
    render_labels(text, overflow_labels(reporter), owner_.shown_, flag_at);
    series = add_series(text, flag_at);  // never left by this user, so never idle
  }
  series->enter();
  return series;
}

// Entered, and in the list that scrapes walk.
TrafficSeries* TrafficCell::add_series(std::string_view text, size_t flag_at) {
  auto* const series = new TrafficSeries;
  series->labels = std::make_shared<const SeriesLabels>(SeriesLabels{std::string(text), flag_at});
  series->users.store(1, std::memory_order_relaxed);
  series->next = first_.load(std::memory_order_relaxed);
  while (!first_.compare_exchange_weak(series->next, series, std::memory_order_release, std::memory_order_relaxed)) {
  }
  return series;
}

// A few a connection: a scrape that has retired thousands must not hold up one.
void TrafficCell::drop_some_retired() {
  constexpr int kAtATime = 16;
  if (dropping_ == nullptr) {
    if (retired_.load(std::memory_order_relaxed) == nullptr) return;
    dropping_ = retired_.exchange(nullptr, std::memory_order_acquire);
  }
  for (int i = 0; i < kAtATime && dropping_ != nullptr; ++i) {
    TrafficSeries* const series = std::exchange(dropping_, dropping_->next_retired);
    // Its labels may have a newer series by now.
    if (const auto found = by_labels_.find(series->labels->text); found != by_labels_.end() && found->second == series)
      by_labels_.erase(found);  // before the series: its text is the key
    TrafficSeries::drop(series);
  }
}

TrafficCell::~TrafficCell() {
  while (dropping_ != nullptr || retired_.load(std::memory_order_acquire) != nullptr) drop_some_retired();
  for (const auto& [text, series] : by_labels_) TrafficSeries::drop(series);
  by_labels_.clear();
  for (TrafficSeries* series : overflow_) {
    if (series != nullptr) TrafficSeries::drop(series);
  }
  for (TrafficSeries* series = first_.load(std::memory_order_acquire); series != nullptr;) {
    TrafficSeries::drop(std::exchange(series, series->next));
  }
}

// ---- Scrape

TrafficMetrics::TrafficMetrics(size_t workers, const TrafficLimits& limits)
    : limits_(limits),
      shown_(shown_labels(limits.labels)),
      claim_seed_(std::random_device{}() | uint64_t{std::random_device{}()} << 32) {
  for (size_t i = 0; i < workers; ++i) cells_.push_back(std::make_unique<Cell>(*this));
}

TrafficMetrics::~TrafficMetrics() = default;

size_t TrafficMetrics::claim_slot(std::string_view identity) const {
  // FNV-1a from a secret start, with its high bits folded in.
  uint64_t hash = 0xcbf29ce484222325 ^ claim_seed_;
  for (const char c : identity) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  hash ^= hash >> 32;
  return hash * 0x9e3779b97f4a7c15 >> 52;
}
static_assert(std::numeric_limits<uint64_t>::max() >> 52 == 4096 - 1);

bool TrafficMetrics::take_claim(size_t slot) {
  const uint32_t of_identity = claims_[slot].fetch_add(1, std::memory_order_relaxed);
  const size_t of_all = claimed_.fetch_add(1, std::memory_order_relaxed);
  if (of_identity < limits_.series_per_identity && of_all < limits_.series / 2) return true;
  give_back_claim(slot);
  return false;
}

void TrafficMetrics::give_back_claim(size_t slot) {
  claims_[slot].fetch_sub(1, std::memory_order_relaxed);
  claimed_.fetch_sub(1, std::memory_order_relaxed);
}

void TrafficMetrics::collect(Clock::time_point now) {
  for (const auto& cell : cells_) {
    for (auto* series = cell->first_.load(std::memory_order_acquire); series != nullptr; series = series->next) {
      if (series->total != nullptr) continue;
      auto& total = totals_[series->labels->text];
      if (total == nullptr) {
        total = std::make_unique<SeriesTotal>();
        total->labels = series->labels;
        total->last_change = now;
      }
      total->series.push_back(series);
      series->total = total.get();
    }
  }
  for (auto& [text, total] : totals_) {
    TrafficCounts sum = total->retired;
    total->in_use = false;
    for (const TrafficSeries* series : total->series) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += series->counts[i].load(std::memory_order_relaxed);
      if (series->users.load(std::memory_order_relaxed) > 0) total->in_use = true;
    }
    if (total->in_use || sum != total->sum) total->last_change = now;
    total->sum = sum;
  }
}

bool TrafficMetrics::is_idle(const SeriesTotal& total, Clock::time_point now) const {
  return !total.in_use && now - total.last_change >= limits_.idle;
}

// Called after rendering, so the last values have been seen; what was counted since then is kept.
void TrafficMetrics::evict_idle(Clock::time_point now) {
  if (limits_.idle.count() == 0) return;
  WorkloadNames gone;
  const bool ask = erase_existing_ && series_count() < limits_.series / 2;
  if (ask) {
    if (now - last_asked_ < limits_.idle / 16) return;
    for (const auto& [text, total] : totals_) {
      if (!is_idle(*total, now)) continue;
      for (const WorkloadName& name : workloads_of(text))
        if (!name.workload.empty() && name.workload != kUnknownLabel) gone.insert(name);
    }
    if (gone.empty()) return;
    last_asked_ = now;
    erase_existing_(gone);
  }
  const auto stays = [&](std::string_view text) {
    return ask && std::ranges::none_of(workloads_of(text), [&](const auto& name) { return gone.contains(name); });
  };
  bool any = false;
  // Kept to the end: their texts hold the names that `gone` compares.
  std::vector<std::unique_ptr<SeriesTotal>> ended;
  for (auto entry = totals_.begin(); entry != totals_.end();) {
    SeriesTotal& total = *entry->second;
    if (is_idle(total, now) && !stays(entry->first)) {
      std::erase_if(total.series, [&](TrafficSeries* series) {
        int32_t idle = 0;
        if (!series->users.compare_exchange_strong(idle, kRetired, std::memory_order_acq_rel)) return false;
        for (size_t i = 0; i < total.retired.size(); ++i) total.retired[i] += series->counts[i].load(std::memory_order_relaxed);
        series->dead = true;
        any = true;
        return true;
      });
      if (total.series.empty() && total.retired == total.sum) {
        ended.push_back(std::move(entry->second));
        entry = totals_.erase(entry);
        continue;
      }
      total.last_change = now;
    }
    ++entry;
  }
  if (!any) return;
  for (const auto& cell : cells_) unlink_retired(*cell);
}

// Takes dead series out of a cell's list. The worker only ever puts new ones in front, so links behind the
// first are ours.
void TrafficMetrics::unlink_retired(Cell& cell) {
  TrafficSeries* previous = nullptr;
  for (TrafficSeries* series = cell.first_.load(std::memory_order_acquire); series != nullptr;) {
    TrafficSeries* const next = series->next;
    if (!series->dead) {
      previous = series;
      series = next;
      continue;
    }
    if (previous == nullptr) {
      TrafficSeries* first = series;
      if (!cell.first_.compare_exchange_strong(first, next, std::memory_order_acq_rel)) {
        // New series came in front of it: the last of them is its predecessor.
        previous = first;
        while (previous->next != series) previous = previous->next;
      }
    }
    if (previous != nullptr) previous->next = next;
    series_count_.fetch_sub(1, std::memory_order_relaxed);
    if (series->claim_slot != kNoClaim) give_back_claim(series->claim_slot);
    // To the worker first: our own share keeps it alive until then.
    series->next_retired = cell.retired_.load(std::memory_order_relaxed);
    while (!cell.retired_.compare_exchange_weak(series->next_retired, series, std::memory_order_release,
                                                std::memory_order_relaxed)) {
    }
    TrafficSeries::drop(series);
    series = next;
  }
}

TrafficSamplePtr TrafficMetrics::sample(Clock::time_point now, bool evict) {
  const std::lock_guard lock(scrape_);
  collect(now);
  auto sample = std::make_shared<TrafficSample>();
  sample->rows.reserve(totals_.size());
  for (const auto& [text, total] : totals_) sample->rows.push_back({total->labels, total->sum});
  for (const auto& cell : cells_) {
    for (size_t i = 0; i < sample->sockets.size(); ++i) sample->sockets[i] += cell->sockets_[i].load(std::memory_order_relaxed);
  }
  if (evict) evict_idle(now);
  return sample;
}

std::string_view labels_text(const TrafficRow& row) { return row.labels->text; }

namespace {

constexpr size_t kPieceBytes = 64 << 10;

struct TrafficFamily {
  std::string_view name, sample, help;
  size_t first, last;  // counts that are its samples; of one alone the flag is "-"
};
constexpr std::array<TrafficFamily, 5> kFamilies{{
    {"istio_tcp_connections_opened", "istio_tcp_connections_opened_total", "The total number of TCP connections opened.",
     kCountOpened, kCountOpened},
    {"istio_tcp_connections_closed", "istio_tcp_connections_closed_total", "The total number of TCP connections closed.",
     kCountClosed, kCountClosed + kResponseFlags - 1},
    {"istio_tcp_received_bytes", "istio_tcp_received_bytes_total",
     "The size of total bytes received during request in case of a TCP connection.", kCountReceived, kCountReceived},
    {"istio_tcp_sent_bytes", "istio_tcp_sent_bytes_total",
     "The size of total bytes sent during response in case of a TCP connection.", kCountSent, kCountSent},
    {"istio_tcp_connections_failed", "istio_tcp_connections_failed_total",
     "The total number of TCP connections that failed to establish (unstable).", kCountClosed + 1,
     kCountClosed + kResponseFlags - 1},
}};
constexpr size_t kFamiliesBefore = 4;  // istio_on_demand_dns

void append_sample(std::string& out, std::string_view name, const SeriesLabels& labels, std::string_view flag, uint64_t value) {
  const std::string_view text = labels.text;
  out.append(name).append(text.substr(0, labels.flag_at)).append(flag).append(text.substr(labels.flag_at));
  out.append(" ").append(fmt::format_int(value).c_str()).append("\n");
}

}  // namespace

bool TrafficText::some(std::string& out, size_t end) {
  const size_t enough = out.size() + kPieceBytes;
  while (family_ < end) {
    const TrafficFamily& family = kFamilies.at(family_);
    const bool flags = family.first != family.last;
    for (; row_ < sample_->rows.size(); ++row_) {
      if (out.size() >= enough) return true;
      const TrafficRow& row = sample_->rows[row_];
      for (size_t i = family.first; i <= family.last; ++i) {
        if (flags && row.counts.at(i) == 0) continue;
        if (!std::exchange(begun_, true)) append_family(out, family.name, family.help, "counter");
        append_sample(out, family.sample, *row.labels, flags ? response_flag_names().at(i - kCountClosed) : "-",
                      row.counts.at(i));
      }
    }
    ++family_;
    row_ = 0;
    begun_ = false;
  }
  return false;
}

std::vector<FamilyInfo> describe_traffic() {
  std::vector<FamilyInfo> all;
  for (const auto& family : kFamilies) {
    FamilyInfo& info = all.emplace_back(FamilyInfo{std::string(family.name), std::string(family.help), "", {}});
    info.labels.assign(traffic_label_names().begin(), traffic_label_names().end());
  }
  return all;
}

bool TrafficText::first(std::string& out) { return some(out, kFamiliesBefore); }

bool TrafficText::second(std::string& out) {
  if (some(out, kFamilies.size())) return true;
  append_family(out, "istio_tcp_sockets_open", kSocketsHelp, "gauge");
  for (const auto reporter : {Reporter::kDestination, Reporter::kSource}) {
    fmt::format_to(std::back_inserter(out), "istio_tcp_sockets_open{{reporter=\"{}\"}} {}\n", reporter_name(reporter),
                   sample_->sockets.at(static_cast<size_t>(reporter)));
  }
  return false;
}

}  // namespace zt::ztunnel
