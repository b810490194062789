// ./dev bench state: what the state of a large mesh costs, by its size: memory per workload, time to apply
// it, how long a worker waits meanwhile (and beside it: with nothing to apply, and with the control thread
// computing something else for as long), time to publish one change to it, and time of the lookups that a
// connection makes. Times to make and apply are processor time of the
// control thread; delays are what a clock shows, so whatever else runs on the machine is in both columns.
#include <fmt/format.h>
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "bench/state_worker.h"

namespace zt::bench {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr auto kLongEnough = std::chrono::milliseconds(300);  // of pushing, for the delays to mean something

// Processor time of this thread: what it costs, whatever else the machine is doing.
struct Clock {
  using duration = std::chrono::nanoseconds;
  static duration now() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  }
};

size_t resident_bytes() {
  malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

struct Row {
  size_t workloads = 0, services = 0, pushes = 0;
  double megabytes = 0, bytes_per_workload = 0, make_s = 0, apply_s = 0;
  ProbedWorker::Delays idle, busy, push;
  double change_us = 0, change_p99_us = 0, lookup_ns = 0;
};

class Measurement {
 public:
  Measurement(size_t workloads, size_t pushes) : mesh_{workloads}, pushes_(pushes) {}

  Row run() {
    Row row;
    row.workloads = mesh_.workloads;
    row.services = mesh_.services;
    row.pushes = pushes_;
    Store store({.node_name = "node-7"});
    {
      ProbedWorker worker(mesh_);
      const auto subscription = store.subscribe([&](const SnapshotPtr& snapshot, const Changes&) { worker.take(snapshot); });
      std::this_thread::sleep_for(kLongEnough);
      row.idle = worker.delays();
      const size_t before = resident_bytes();
      const auto pushing = std::chrono::steady_clock::now();
      first_push(store);
      row.make_s = Seconds(making_).count();
      row.apply_s = Seconds(applying_).count();
      const auto resident = static_cast<double>(resident_bytes() - before);
      row.megabytes = resident / 1e6;
      row.bytes_per_workload = resident / static_cast<double>(mesh_.workloads);
      for (uint32_t revision = 1; applying_ < kLongEnough; ++revision) push_workloads(store, revision);
      row.push = worker.delays();
      // As many samples with that thread busy and nothing pushed: what is left is the machine's.
      compute_until(std::chrono::steady_clock::now() + (std::chrono::steady_clock::now() - pushing));
      row.busy = worker.delays();
    }
    change_one_by_one(store, row);
    look_up(*store.snapshot(), row);
    return row;
  }

 private:
  static void compute_until(std::chrono::steady_clock::time_point end) {
    static volatile uint64_t sink = 1;
    while (std::chrono::steady_clock::now() < end)
      for (int i = 0; i < 10'000; ++i) sink = sink * 6364136223846793005u + 1442695040888963407u;
  }

  void apply(Store& store, Batch batch) {
    const auto at = Clock::now();
    if (!store.apply(std::move(batch)).empty()) std::abort();
    applying_ += Clock::now() - at;
  }

  // All services and workloads, in one push or in several.
  void first_push(Store& store) {
    const auto at = Clock::now();
    Batch batch;
    for (size_t i = 0; i < mesh_.services; ++i) batch.services.push_back(mesh_.service(i));
    making_ += Clock::now() - at;
    push_workloads(store, 0, std::move(batch));
  }

  void push_workloads(Store& store, uint32_t revision, Batch batch = {}) {
    const size_t size = (mesh_.workloads + pushes_ - 1) / pushes_;
    for (size_t first = 0; first < mesh_.workloads; first += size, batch = {}) {
      const auto at = Clock::now();
      for (size_t i = first; i < std::min(mesh_.workloads, first + size); ++i)
        batch.workloads.push_back(mesh_.workload(store, i, revision));
      making_ += Clock::now() - at;
      apply(store, std::move(batch));
    }
  }

  // One workload changes; every publication leaves an older snapshot that somebody still holds.
  void change_one_by_one(Store& store, Row& row) const {
    std::vector<double> single;
    SnapshotPtr held = store.snapshot();
    for (uint32_t i = 1; i <= 1000; ++i) {
      Batch batch;
      batch.workloads.push_back(mesh_.workload(store, (i * 7919u) % mesh_.workloads, 1'000'000 + i));
      const auto at = Clock::now();
      store.apply(std::move(batch));
      single.push_back(Seconds(Clock::now() - at).count() * 1e6);
      held = store.snapshot();
    }
    std::ranges::sort(single);
    row.change_us = single[single.size() / 2];
    row.change_p99_us = single[single.size() * 99 / 100];
  }

  // What a connection asks: service by VIP, an endpoint of it.
  void look_up(const Snapshot& snapshot, Row& row) const {
    constexpr size_t kLookups = 300'000;
    const Workload* source = snapshot.workload("", Mesh::ip(1));
    size_t found = 0;
    const auto at = Clock::now();
    for (size_t i = 0; i < kLookups; ++i) {
      const ServiceEntry* entry = snapshot.service_by_vip("", Mesh::vip((i * 7919) % mesh_.services), source->ns.view());
      found += static_cast<bool>(entry->choose(*source, 80, ResolutionMode::kStandard, i));
    }
    row.lookup_ns = Seconds(Clock::now() - at).count() / kLookups * 1e9;
    if (found != kLookups) std::abort();
  }

  Mesh mesh_;
  size_t pushes_;
  Clock::duration making_{}, applying_{};
};

void print(const Row& row) {
  fmt::print(
      "{:>9} {:>8} {:>6} {:>7.0f} {:>9.0f} {:>7.3f} {:>8.3f} {:>7.0f} {:>7.0f} {:>7.0f} {:>7.0f} {:>8.0f} "
      "{:>8.0f} {:>9.0f} "
      "{:>8.0f} {:>9.0f}\n",
      row.workloads, row.services, row.pushes, row.megabytes, row.bytes_per_workload, row.make_s, row.apply_s, row.idle.p99,
      row.idle.max, row.busy.p99, row.busy.max, row.push.p99, row.push.max, row.change_us, row.change_p99_us, row.lookup_ns);
  std::fflush(stdout);
}

std::string json(const std::vector<Row>& rows) {
  std::string text = "[";
  for (const Row& row : rows)
    text += fmt::format(
        "{}\n  {{\"workloads\": {}, \"services\": {}, \"pushes\": {}, \"megabytes\": {:.1f}, "
        "\"bytes_per_workload\": {:.1f}, "
        "\"make_s\": {:.4f}, \"apply_s\": {:.4f}, \"idle_delay_us\": {{\"p50\": {:.1f}, \"p99\": {:.1f}, "
        "\"max\": {:.1f}}}, "
        "\"busy_delay_us\": {{\"p50\": {:.1f}, \"p99\": {:.1f}, \"max\": {:.1f}}}, "
        "\"push_delay_us\": {{\"p50\": {:.1f}, \"p99\": {:.1f}, \"max\": {:.1f}}}, \"change_us\": {:.1f}, "
        "\"change_p99_us\": {:.1f}, \"lookup_ns\": {:.1f}}}",
        text.size() > 1 ? "," : "", row.workloads, row.services, row.pushes, row.megabytes, row.bytes_per_workload, row.make_s,
        row.apply_s, row.idle.p50, row.idle.p99, row.idle.max, row.busy.p50, row.busy.p99, row.busy.max, row.push.p50,
        row.push.p99, row.push.max, row.change_us, row.change_p99_us, row.lookup_ns);
  return text + "\n]\n";
}

constexpr const char* kUsage =
    "./dev bench state [--json FILE] [WORKLOADS…]\n"
    "What the state of a mesh of that many workloads (default 1000 10000 100000 1000000) costs, with 1/15 as "
    "many services;\n"
    "all in one push, as a control plane greets a proxy, and the largest once more in ten.\n";

}  // namespace
}  // namespace zt::bench

int main(int argc, char** argv) {
  using namespace zt::bench;
  std::vector<size_t> sizes;
  const char* json_file = nullptr;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h") {
      fmt::print("{}", kUsage);
      return 0;
    }
    if (word == "--json" && i + 1 < argc) {
      json_file = argv[++i];
      continue;
    }
    size_t size = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), size);
    if (error != std::errc{} || end != word.data() + word.size() || size == 0 || size > 10'000'000) {
      fmt::print(stderr, "bench state: \"{}\" is not a number of workloads from 1 to 10000000\n{}", word, kUsage);
      return 2;
    }
    sizes.push_back(size);
  }
  if (sizes.empty()) sizes = {1'000, 10'000, 100'000, 1'000'000};

  fmt::print("{:>51} {:>15} {:>15} {:>18} {:>18}\n", "", "delay idle us", "delay busy us", "delay in push us", "one change us");
  fmt::print("{:>9} {:>8} {:>6} {:>7} {:>9} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>8} {:>8} {:>9} {:>8} {:>9}\n", "workloads",
             "services", "pushes", "MB", "B/workld", "make s", "apply s", "p99", "max", "p99", "max", "p99", "max", "median",
             "p99", "lookup ns");
  std::vector<Row> rows;
  const auto measure = [&](size_t workloads, size_t pushes) {
    rows.push_back(Measurement(workloads, pushes).run());
    print(rows.back());
  };
  for (const size_t size : sizes) measure(size, 1);
  measure(sizes.back(), 10);
  if (json_file != nullptr) {
    std::ofstream file(json_file);
    file << json(rows) << std::flush;
    if (!file) {
      fmt::print(stderr, "bench state: {}: {}\n", json_file, std::strerror(errno));
      return 1;
    }
  }
  return 0;
}
