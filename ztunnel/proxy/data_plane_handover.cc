// The whole of a hand-over: each worker gives what it has on a connection of its own (docs/handover.md).
#include <sys/resource.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "handover/meeting_place.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/data_plane.h"

namespace zt::ztunnel {

namespace {
log::Scope kLog("handover");
// The listeners' last connections are ours until then (PodWorker::step_back()).
constexpr std::chrono::milliseconds kAfterStepBack{300};
constexpr std::chrono::seconds kProgress{1};
}  // namespace

handover::Hello DataPlane::hello() const {
  handover::Hello hello{.lowest_format = handover::kLowestFormat,
                        .highest_format = handover::kHighestFormat,
                        .build = identity_.build,
                        .network = settings_.network,
                        .trust_domain = identity_.trust_domain,
                        .node = identity_.node,
                        .pods = {},
                        .descriptors_free = 0};
  for (const auto& [uid, pod] : pods_) {
    if (uid != kOwnPod) hello.pods.push_back(uid);
  }
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0)
    hello.descriptors_free = static_cast<uint32_t>(std::min<rlim_t>(files.rlim_cur, UINT32_MAX));
  return hello;
}

struct DataPlane::HandOver {
  std::vector<UniqueFd> sockets;  // by worker
  Clock::duration limit;
  HandOverDone progress, done;
  size_t missing;
  std::vector<HandOverCounts> counts;  // by worker

  [[nodiscard]] HandOverCounts sum() const {
    HandOverCounts all;
    for (const auto& each : counts) all += each;
    return all;
  }
};

Result<> DataPlane::hand_over(const std::string& path, Clock::duration limit, HandOverDone progress, HandOverDone done) {
  auto hand_over = std::make_shared<HandOver>(HandOver{.sockets = {},
                                                       .limit = limit,
                                                       .progress = std::move(progress),
                                                       .done = std::move(done),
                                                       .missing = workers_.size(),
                                                       .counts = std::vector<HandOverCounts>(workers_.size())});
  // Before anything changes: if nobody is there, nothing has.
  for (size_t i = 0; i < workers_.size(); ++i) {
    ZT_ASSIGN(auto socket, handover::visit(path));
    hand_over->sockets.push_back(std::move(socket));
  }
  step_back_all();
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post([this, i] {
      const auto prepare = [](PodWorker& pod, const std::string&, bool anew) { return pod.units().prepare_some(anew); };
      sweep_pods(i, prepare, [] {});
    });
  }
  hand_over_timer_.start_after(kAfterStepBack, [this, hand_over] { give_all(hand_over); });
  return {};
}

void DataPlane::give_all(const std::shared_ptr<HandOver>& hand_over) {
  const auto over = ticket_.on_answer([this, hand_over](size_t worker, HandOverCounts counts) {
    hand_over->counts[worker] = std::move(counts);
    if (--hand_over->missing > 0) return;
    hand_over_timer_.cancel();
    hand_over->done(hand_over->sum());
  });
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->post(
        [this, i, over, limit = hand_over->limit, hello = hello(), socket = std::move(hand_over->sockets[i])]() mutable {
          WorkerPods& mine = *worker_pods_[i];
          mine.giving = std::make_unique<WorkerLeaving>(
              *workers_[i], mine.pods, std::move(socket), std::move(hello), limit, [&mine] { return !mine.taking.empty(); },
              [this, i, over](const HandOverCounts& counts) {
                over(i, counts);
                worker_pods_[i]->giving.reset();
              });
          if (auto started = mine.giving->start(); !started) {
            HandOverCounts none = mine.giving->counts();
            none.end = started.error().text;
            mine.giving.reset();
            over(i, std::move(none));
          }
        });
  }
  report_progress(hand_over);
}

void DataPlane::report_progress(const std::shared_ptr<HandOver>& hand_over) {
  hand_over_timer_.start_after(kProgress, [this, hand_over] {
    const auto give = ticket_.on_answer(
        [this, hand_over, waiting = std::make_shared<size_t>(workers_.size())](size_t worker, HandOverCounts counts) {
          if (hand_over->missing == 0) return;
          hand_over->counts[worker] = std::move(counts);
          if (--*waiting > 0) return;
          hand_over->progress(hand_over->sum());
          report_progress(hand_over);
        });
    for (size_t i = 0; i < workers_.size(); ++i) {
      workers_[i]->post([this, i, give, last = hand_over->counts[i]] {
        const auto& giving = worker_pods_[i]->giving;
        give(i, giving ? giving->counts() : last);
      });
    }
  });
}

void DataPlane::take_over(UniqueFd visitor) {
  const size_t i = next_taking_++ % workers_.size();
  workers_[i]->post([this, i, hello = hello(), visitor = std::move(visitor)]() mutable {
    WorkerPods& mine = *worker_pods_[i];
    const auto place = mine.taking.emplace(mine.taking.end());
    *place = std::make_unique<WorkerArriving>(
        *workers_[i], mine.pods, std::move(visitor), std::move(hello), [this, i, place](size_t units, const Error& why) {
          ZT_LOG(kLog, kInfo, "took over from the process before", Field::count("units", static_cast<int64_t>(units)),
                 Field::string("end", why.text));
          worker_pods_[i]->taking.erase(place);
        });
    if (auto started = (*place)->start(); !started) mine.taking.erase(place);
  });
}

}  // namespace zt::ztunnel
