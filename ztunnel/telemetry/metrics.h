#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "mesh/reason.h"

// Traffic metrics (contract §10.1): counted where the traffic is, summed when somebody asks.
//
// Each worker has a Cell. A connection resolves its label set once, to a TrafficHandle that points at this
// worker's counters; from then on counting is a plain load and store to memory that only this worker writes.
// A scrape walks the cells' lists of series without a lock and without stopping anybody. Series that nobody
// has used for a while are taken away again: labels of pods that are gone must not fill a node proxy for
// ever.
namespace zt::ztunnel {

enum class Reporter : uint8_t { kSource, kDestination };
[[nodiscard]] std::string_view reporter_name(Reporter reporter);

// What is said of one end of a connection. Empty means unknown. The views are read during Cell::open() only.
struct PartyLabels {
  std::string_view workload;
  std::string_view canonical_service;
  std::string_view canonical_revision;
  std::string_view ns;
  std::string_view principal;
  std::string_view app;
  std::string_view version;
  std::string_view cluster;
  std::string_view region;
  std::string_view zone;
};

struct TrafficLabels {
  Reporter reporter = Reporter::kSource;
  PartyLabels source;
  std::string_view service;  // hostname
  std::string_view service_ns;
  std::string_view service_name;
  PartyLabels destination;
  bool mutual_tls = false;
  bool localities = false;  // regions and zones are labels at all: one end's workload is known
  // Set when nothing but the peer's word tells what is said of `source` (its principal apart): the identity that it proved.
  std::string_view claimed_by;
  bool local = false;  // it took no tunnel: both ends are here. Ours: the label zt_path
};

// Final flags of a connection, in the order of response_flag_names().
inline constexpr size_t kResponseFlags = 8;
[[nodiscard]] const std::array<std::string_view, kResponseFlags>& response_flag_names();  // "-", "DENY", …

struct SeriesLabels;
struct SeriesTotal;
struct TrafficSeries;

// The metrics of one open connection. Opened when made, closed exactly once. Only on the thread of the cell
// that made it.
class TrafficHandle {
 public:
  TrafficHandle() = default;
  TrafficHandle(TrafficHandle&& other) noexcept : series_(std::exchange(other.series_, nullptr)) {}
  TrafficHandle& operator=(TrafficHandle&& other) noexcept {
    close(Reason::kDrained);
    series_ = std::exchange(other.series_, nullptr);
    return *this;
  }
  ~TrafficHandle() { close(Reason::kDrained); }

  void add_received(uint64_t bytes);  // client → server, whichever side we are
  void add_sent(uint64_t bytes);      // server → client
  // Counts the end, and a failure if the reason's response flag is one. Later calls do nothing.
  void close(Reason reason);
  // The connection goes on in another process, which counts its end (TrafficCell::adopt()).
  void forget();
  [[nodiscard]] explicit operator bool() const { return series_ != nullptr; }

 private:
  friend class TrafficCell;
  explicit TrafficHandle(TrafficSeries* series) : series_(series) {}
  TrafficSeries* series_ = nullptr;
};

class TrafficMetrics;

// One worker's series. Everything but collection belongs to the worker's thread.
class TrafficCell {
 public:
  explicit TrafficCell(TrafficMetrics& owner) : owner_(owner) {}
  ~TrafficCell();
  TrafficCell(const TrafficCell&) = delete;
  TrafficCell& operator=(const TrafficCell&) = delete;

  // Finds or makes the series of these labels. Beyond the limit on what peers claim, a peer's connections are counted under its
  // principal with all that it claims as "overflow"; beyond the limit on all series, under "overflow" alone. About a microsecond.
  [[nodiscard]] TrafficHandle open(const TrafficLabels& labels);
  // The same for a connection that another process has counted as opened: sums over both are those of one.
  [[nodiscard]] TrafficHandle adopt(const TrafficLabels& labels);

  void socket_opened(Reporter reporter) { move_sockets(reporter, 1); }
  void socket_closed(Reporter reporter) { move_sockets(reporter, -1); }

 private:
  friend class TrafficMetrics;
  // The series of these labels, entered, if there is one or may be one more.
  TrafficSeries* find_or_add(const TrafficLabels& labels);
  TrafficSeries* find(std::string_view text);
  TrafficSeries* overflow(Reporter reporter);
  TrafficSeries* add_series(std::string_view text, size_t flag_at);
  void drop_some_retired();
  void move_sockets(Reporter reporter, int64_t delta) {
    auto& count = sockets_[static_cast<size_t>(reporter)];
    count.store(count.load(std::memory_order_relaxed) + delta, std::memory_order_relaxed);
  }

  TrafficMetrics& owner_;
  std::unordered_map<std::string_view, TrafficSeries*> by_labels_;  // keys are the series' own text
  std::array<TrafficSeries*, 2> overflow_{};
  TrafficSeries* dropping_ = nullptr;  // taken from retired_, still to be forgotten
  // Read by the scrape.
  std::atomic<TrafficSeries*> first_{nullptr};
  std::atomic<TrafficSeries*> retired_{nullptr};  // a stack that scrapes push to: by_labels_ is to forget these
  std::array<std::atomic<int64_t>, 2> sockets_{};
};

// A socket that counts as open while this lives.
class [[nodiscard]] OpenSocket {
 public:
  OpenSocket() = default;
  OpenSocket(TrafficCell& cell, Reporter reporter) : cell_(&cell), reporter_(reporter) { cell.socket_opened(reporter); }
  OpenSocket(OpenSocket&& other) noexcept : cell_(std::exchange(other.cell_, nullptr)), reporter_(other.reporter_) {}
  OpenSocket& operator=(OpenSocket&& other) noexcept {
    if (this != &other) {
      release();
      cell_ = std::exchange(other.cell_, nullptr);
      reporter_ = other.reporter_;
    }
    return *this;
  }
  ~OpenSocket() { release(); }

 private:
  void release() {
    if (cell_ != nullptr) cell_->socket_closed(reporter_);
    cell_ = nullptr;
  }
  TrafficCell* cell_ = nullptr;
  Reporter reporter_ = Reporter::kSource;
};

// The sums of one label set over all workers, at one moment.
using TrafficCounts = std::array<uint64_t, 3 + kResponseFlags>;  // opened, received, sent, then ended by flag
inline constexpr size_t kCountOpened = 0, kCountReceived = 1, kCountSent = 2, kCountClosed = 3;
struct TrafficRow {
  std::shared_ptr<const SeriesLabels> labels;
  TrafficCounts counts;
};
// Of one moment; some hundred bytes a label set. Immutable.
struct TrafficSample {
  std::vector<TrafficRow> rows;
  std::array<int64_t, 2> sockets{};  // open, by Reporter
};
using TrafficSamplePtr = std::shared_ptr<const TrafficSample>;
// "{reporter=…}" with an empty response flag.
[[nodiscard]] std::string_view labels_text(const TrafficRow& row);

// The families of one sample as text, in pieces of some 64 KiB, so that a hundred thousand label sets need no text of that size.
class TrafficText {
 public:
  explicit TrafficText(const TrafficSample* sample) : sample_(sample) {}
  // Before each piece: the sample, which lives at least until the piece is there.
  void show(const TrafficSample* sample) { sample_ = sample; }
  // Appends the next piece of the families from connections opened to bytes sent; false: that was all.
  bool first(std::string& out);
  // And of failed connections and open sockets (the peer has another family in between).
  bool second(std::string& out);

 private:
  bool some(std::string& out, size_t end);
  const TrafficSample* sample_;
  size_t family_ = 0, row_ = 0;
  bool begun_ = false;  // the family has its head
};

// The families of traffic, for a reference page: all counters.
struct FamilyInfo;
[[nodiscard]] std::vector<FamilyInfo> describe_traffic();
inline constexpr std::string_view kSocketsHelp = "The current number of open TCP sockets (unstable).";

struct TrafficLimits {
  size_t series = 10'000;            // label sets, counted per worker; what peers claim may take half of it
  size_t series_per_identity = 500;  // of them, those that one peer's claims may make
  // Traffic labels that are shown; empty: all. `reporter` and `response_flags` always are. What differs in others only is one series.
  std::vector<std::string> labels{};
  std::chrono::seconds idle{900};  // series unused this long go, once a scrape has seen their last value; 0: never
};

class TrafficMetrics {
 public:
  using Cell = TrafficCell;
  using Clock = std::chrono::steady_clock;
  // A workload as labels name it.
  struct WorkloadName {
    std::string_view ns, workload;
    friend bool operator==(const WorkloadName&, const WorkloadName&) = default;
  };
  struct WorkloadNameHash {
    size_t operator()(const WorkloadName& name) const;
  };
  using WorkloadNames = std::unordered_set<WorkloadName, WorkloadNameHash>;
  // Takes those that exist out of `names`, which are of idle series. Called on the scraping thread, not more
  // often than every sixteenth of TrafficLimits::idle: it may look through all workloads.
  using EraseExisting = std::function<void(WorkloadNames& names)>;

  TrafficMetrics(size_t workers, const TrafficLimits& limits);
  ~TrafficMetrics();  // after the workers have ended
  TrafficMetrics(const TrafficMetrics&) = delete;
  TrafficMetrics& operator=(const TrafficMetrics&) = delete;

  [[nodiscard]] Cell& cell(size_t worker) { return *cells_[worker]; }
  [[nodiscard]] size_t series_count() const { return series_count_.load(std::memory_order_relaxed); }
  [[nodiscard]] uint64_t overflows() const { return overflows_.load(std::memory_order_relaxed); }

  // With it, idle series go only if one of their workloads is gone, or if half of the limit is reached:
  // whoever takes rates would miss the calls of a workload that is only seldom called. Before the first
  // scrape.
  void keep_existing(EraseExisting erase_existing) { erase_existing_ = std::move(erase_existing); }

  // All sums of one moment. Any thread; callers take turns, and no worker waits. `now` decides what is idle, and after it is forgotten:
  // with `evict` only, which is for who shows it to Prometheus, since its last numbers would otherwise be seen by nobody there.
  [[nodiscard]] TrafficSamplePtr sample(Clock::time_point now, bool evict = true);

 private:
  friend class TrafficCell;
  void collect(Clock::time_point now);
  void evict_idle(Clock::time_point now);
  [[nodiscard]] bool is_idle(const SeriesTotal& total, Clock::time_point now) const;
  void unlink_retired(Cell& cell);
  bool take_claim(size_t slot);
  void give_back_claim(size_t slot);
  [[nodiscard]] size_t claim_slot(std::string_view identity) const;

  // Claimed series by identity: a table of counters instead of one of names, so that it needs neither lock nor bound. Two
  // identities that meet in a slot share its limit; the seed keeps anybody from choosing whom to meet.
  static constexpr size_t kClaimSlots = 4096;
  const TrafficLimits limits_;
  const uint32_t shown_;  // traffic labels, by their place in traffic_label_names()
  std::vector<std::unique_ptr<Cell>> cells_;
  std::atomic<size_t> series_count_{0};
  std::atomic<uint64_t> overflows_{0};
  const uint64_t claim_seed_;
  std::array<std::atomic<uint32_t>, kClaimSlots> claims_{};
  std::atomic<size_t> claimed_{0};

  std::mutex scrape_;  // guards what follows
  std::unordered_map<std::string_view, std::unique_ptr<SeriesTotal>> totals_;
  EraseExisting erase_existing_;
  Clock::time_point last_asked_;  // erase_existing_ was
};

}  // namespace zt::ztunnel
