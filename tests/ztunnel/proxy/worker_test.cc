// What a worker does with a new snapshot while connections go on.
#include "ztunnel/proxy/worker.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <future>
#include <optional>
#include <set>

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

namespace {

constexpr auto kLongEnough = 20s;

// A worker without a data plane, whose thread runs.
struct RunningWorker {
  MemoryLimit memory{16 << 20};
  WorkerSettings settings = [this] {
    WorkerSettings made{};
    made.memory = &memory;
    return made;
  }();
  Metrics metrics{1, {}, "test"};
  Worker worker{0, settings, metrics, [](const identity::SpiffeId&, identity::SecretManager::Waiter) {}};
  RunningWorker() { worker.start(); }
  // Destroyed on the worker's thread, or once it has stopped.
  using Listener = StateView::Listener;
  void publish() { worker.publish(std::make_shared<const workload_api::Snapshot>()); }
};

// A piece that takes its time: more than a turn spends on a snapshot.
void be_busy() {
  for (const auto until = Clock::now() + 300us; Clock::now() < until;) {
  }
}

}  // namespace

TEST_CASE(
    "A snapshot is held against what is open in pieces, and what comes meanwhile does not wait for the last "
    "of them") {
  RunningWorker running;
  std::promise<int> finished;
  int pieces = 0, meanwhile = 0;
  std::optional<RunningWorker::Listener> listener;
  running.worker.post([&] {
    listener.emplace(running.worker.state(), [&](const workload_api::Snapshot&, bool anew) {
      CHECK(anew == (pieces == 0));
      be_busy();
      // As a connection that becomes readable while the pieces are worked off.
      if (pieces == 3) running.worker.post([&] { meanwhile = pieces; });
      if (++pieces < 50) return false;
      finished.set_value(pieces);
      return true;
    });
  });
  running.publish();
  auto done = finished.get_future();
  REQUIRE(done.wait_for(kLongEnough) == std::future_status::ready);
  running.worker.stop();
  CHECK(pieces == 50);
  CHECK(meanwhile > 3);
  CHECK(meanwhile <= 6);
}

TEST_CASE(
    "Snapshots that come faster than they are worked off keep no pod from its turn, and each pod sees the "
    "last one") {
  RunningWorker running;
  constexpr int kPods = 4, kPieces = 3, kSnapshots = 20;
  struct Pod {
    int begun = 0, piece = 0, finished = 0;
    const workload_api::Snapshot* last = nullptr;
    std::optional<RunningWorker::Listener> listener;
  };
  std::array<Pod, kPods> pods{};
  std::promise<void> all_quiet;
  running.worker.post([&] {
    for (Pod& pod : pods) {
      pod.listener.emplace(running.worker.state(), [&](const workload_api::Snapshot& snapshot, bool anew) {
        if (anew) {
          ++pod.begun;
          pod.piece = 0;
          pod.last = &snapshot;
          // The next snapshot is here before this one is done, a limited number of times.
          static int published = 0;
          if (&pod == pods.data() && ++published < kSnapshots) running.publish();
        }
        be_busy();
        if (++pod.piece < kPieces) return false;
        ++pod.finished;
        const auto settled = [&](const Pod& each) {
          return each.last == running.worker.snapshot().get() && each.piece == kPieces;
        };
        if (pods[0].begun >= kSnapshots && std::ranges::all_of(pods, settled)) all_quiet.set_value();
        return true;
      });
    }
  });
  running.publish();
  auto quiet = all_quiet.get_future();
  REQUIRE(quiet.wait_for(kLongEnough) == std::future_status::ready);
  running.worker.stop();
  for (const Pod& pod : pods) {
    CHECK(pod.begun == pod.finished);  // none is begun anew before it is through
    CHECK(pod.finished >= kSnapshots / 2);
  }
}

TEST_CASE("A pod that goes while a snapshot is being worked off is not asked any more") {
  RunningWorker running;
  std::promise<void> next_done;
  int gone_asked = 0;
  std::optional<RunningWorker::Listener> gone, next;
  running.worker.post([&] {
    gone.emplace(running.worker.state(), [&](const workload_api::Snapshot&, bool) {
      be_busy();
      running.worker.post([&] { gone.reset(); });
      return ++gone_asked > 1000;
    });
  });
  running.publish();
  running.worker.post([&] {
    next.emplace(running.worker.state(), [&](const workload_api::Snapshot&, bool) {
      next_done.set_value();
      return true;
    });
  });
  running.publish();
  auto done = next_done.get_future();
  REQUIRE(done.wait_for(kLongEnough) == std::future_status::ready);
  running.worker.stop();
  CHECK(gone_asked < 10);
}

TEST_CASE("Which of equal endpoints a worker begins with differs from worker to worker and from start to start") {
  workload_api::Service service;
  service.key = workload_api::Str("shop/a.example");
  std::set<uint64_t> first;
  for (int i = 0; i < 8; ++i) {
    const RunningWorker running;
    first.insert(running.worker.turns()(service));
  }
  CHECK(first.size() > 1);
}
