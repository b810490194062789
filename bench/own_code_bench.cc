// Own code beside what a library or the standard offers for the same, where own code stays because it is faster: the log's queue
// (base/log_ring.h), the tables of a snapshot (workload_api/store/hash_trie.h), how traffic is counted (ztunnel/telemetry/metrics.h).
// The event loop has loop_bench, AES-GCM aead_bench. CPU time of the threads that do it, so that a busy machine does not count;
// medians of five turns.
#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/log_ring.h"
#include "workload_api/store/hash_trie.h"

namespace {

constexpr int kTurns = 5;

double thread_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

// Median over the turns of what `turn` returns.
double median_of(const std::function<double()>& turn) {
  std::vector<double> seen;
  for (int i = 0; i < kTurns; ++i) seen.push_back(turn());
  std::ranges::sort(seen);
  return seen[kTurns / 2];
}

// CPU nanoseconds for one `work(thread)` of `count`, on each of `threads` threads.
double each_of(size_t threads, size_t count, const std::function<void(size_t)>& work) {
  std::atomic<size_t> ready{0};
  std::vector<double> spent(threads);
  std::vector<std::thread> running;
  for (size_t i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      ++ready;
      while (ready < threads) std::this_thread::yield();
      const double begun = thread_ns();
      for (size_t n = 0; n < count; ++n) work(i);
      spent[i] = thread_ns() - begun;
    });
  }
  for (auto& thread : running) thread.join();
  double all = 0;
  for (const double one : spent) all += one;
  return all / static_cast<double>(threads * count);
}

// ---- the log: two workers write lines, one writer takes them out

constexpr size_t kLines = 300'000;
const std::string kLine(200, 'x');

double ring_push() {
  zt::log::Ring ring(8192, 64u << 20);
  std::atomic<bool> end{false};
  std::thread writer([&] {
    std::string line;
    while (!end || ring.pop(line))
      if (!ring.pop(line)) std::this_thread::yield();
  });
  const double spent = each_of(2, kLines, [&](size_t) {
    std::string line = kLine;
    while (!ring.push(line)) std::this_thread::yield();
  });
  end = true;
  writer.join();
  return spent;
}

double deque_push() {
  std::mutex mutex;
  std::deque<std::string> lines;
  std::atomic<bool> end{false};
  std::thread writer([&] {
    while (!end) {
      std::string line;
      {
        const std::lock_guard lock(mutex);
        if (!lines.empty()) line = std::move(lines.front()), lines.pop_front();
      }
      if (line.empty()) std::this_thread::yield();
    }
  });
  const double spent = each_of(2, kLines, [&](size_t) {
    std::string line = kLine;
    for (;;) {
      {
        const std::lock_guard lock(mutex);
        if (lines.size() < 8192) return lines.push_back(std::move(line));
      }
      std::this_thread::yield();
    }
  });
  end = true;
  writer.join();
  return spent;
}

// ---- snapshots: one of 100,000 entries changes, and readers go on with the former table

constexpr size_t kEntries = 100'000;
using Record = std::shared_ptr<const std::string>;

struct ByText {
  using Entry = Record;
  static uint64_t hash(const std::string& key) { return std::hash<std::string>{}(key); }
  static uint64_t hash(const Record& entry) { return hash(*entry); }
  static bool equal(const Record& entry, const std::string& key) { return *entry == key; }
};

std::vector<Record> records() {
  std::vector<Record> out;
  for (size_t i = 0; i < kEntries; ++i)
    out.push_back(std::make_shared<std::string>("cluster//Pod/shop/web-" + std::to_string(i)));
  return out;
}

template <class Table>
double publish_one(Table table, size_t changes, const std::function<void(Table&, const Record&)>& put) {
  const auto all = records();
  for (const Record& record : all) put(table, record);
  return median_of([&] {
    return each_of(1, changes, [&, at = size_t{0}](size_t) mutable {
      const Table former = table;  // a reader's
      put(table, std::make_shared<std::string>(*all[at++ % kEntries]));
    });
  });
}

template <class Table>
double find_one(Table table, const std::function<void(Table&, const Record&)>& put,
                const std::function<bool(const Table&, const std::string&)>& find) {
  const auto all = records();
  for (const Record& record : all) put(table, record);
  size_t found = 0;
  const double spent = median_of([&] {
    return each_of(1, kEntries, [&, at = size_t{0}](size_t) mutable { found += find(table, *all[at++ * 7919 % kEntries]); });
  });
  if (found != kTurns * kEntries) std::puts("entries are missing");
  return spent;
}

// ---- counting: two workers count the bytes of their connections

constexpr size_t kCounts = 20'000'000;
struct alignas(64) Cell {
  std::atomic<uint64_t> count{0};
};

double count_own() {
  Cell cells[2];
  return each_of(2, kCounts, [&](size_t i) {
    auto& count = cells[i].count;
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  });
}
double count_shared() {
  Cell cell;
  return each_of(2, kCounts, [&](size_t) { cell.count.fetch_add(1, std::memory_order_relaxed); });
}

void line(const char* what, double own, const char* other, double theirs, const char* unit, double scale) {
  std::printf("%-44s %10.1f %s   %-32s %10.1f %s\n", what, own / scale, unit, other, theirs / scale, unit);
}

}  // namespace

int main() {
  line("a line into the log's ring", median_of(ring_push), "mutex and std::deque", median_of(deque_push), "ns", 1);

  using Trie = zt::workload_api::HashTrie<ByText>;
  using Map = absl::flat_hash_map<std::string, Record>;
  const std::function<void(Trie&, const Record&)> put_trie = [](Trie& trie, const Record& r) { trie.put(*r, r); };
  const std::function<void(Map&, const Record&)> put_map = [](Map& map, const Record& r) { map.insert_or_assign(*r, r); };
  line("a snapshot with one of 100,000 changed", publish_one<Trie>({}, 100'000, put_trie), "a copy of absl::flat_hash_map",
       publish_one<Map>({}, 20, put_map), "us", 1e3);
  line("a look-up in it",
       find_one<Trie>({}, put_trie, [](const Trie& trie, const std::string& key) { return trie.find(key) != nullptr; }),
       "absl::flat_hash_map",
       find_one<Map>({}, put_map, [](const Map& map, const std::string& key) { return map.contains(key); }), "ns", 1);

  line("counting in a worker's own cell", median_of(count_own), "a shared atomic (Prometheus's)", median_of(count_shared), "ns",
       1);
  return 0;
}
