#include "ztunnel/proxy/worker_handover.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

#include "mesh/reason.h"

namespace zt::ztunnel {

namespace {
// What cannot be moved now is over in a round trip, mostly: an acknowledgement, an answer, the end of a frame.
constexpr std::chrono::milliseconds kNextPass{50};
// Connections that are given before their memory goes back to the system: the next process takes as much at the same time.
constexpr size_t kGivenAtOnce = 512;
}  // namespace

HandOverCounts& HandOverCounts::operator+=(const HandOverCounts& more) {
  connections += more.connections;
  units += more.units;
  refused += more.refused;
  left += more.left;
  longest_stop = std::max(longest_stop, more.longest_stop);
  for (const auto& [cause, count] : more.causes) causes[cause] += count;
  if (!more.refusal.empty()) refusal = more.refusal;
  if (!more.end.empty()) end = more.end;
  return *this;
}

WorkerLeaving::WorkerLeaving(Worker& worker, PodWorkers& pods, UniqueFd socket, handover::Hello hello, Clock::duration limit,
                             std::function<bool()> taking, std::function<void(const HandOverCounts&)> over)
    : worker_(worker),
      pods_(pods),
      until_(Clock::now() + limit),
      pass_timer_(worker.loop()),
      taking_(std::move(taking)),
      over_(std::move(over)),
      leaving_(
          worker.loop(), std::move(socket), std::move(hello), *this,
          [this](const handover::Hello& theirs) {
            served_.insert(theirs.pods.begin(), theirs.pods.end());
            begin_pass();
          },
          [this](const Error& why) {
            pass_timer_.cancel();
            if (why.reason != Reason::kOk) counts_.end = why.text;
            std::exchange(over_, nullptr)(counts());
          }) {}

void WorkerLeaving::begin_pass() {
  waiting_.clear();
  counts_.causes.clear();
  counts_.refusal.clear();
  for (auto& [uid, pod] : pods_) {
    if (served_.contains(uid)) {
      pod->units().begin(passes_ == 0);
      waiting_.push_back(uid);
    } else if (const size_t connections = pod->connection_count(); connections > 0) {
      counts_.causes["the next process does not serve their pod"] += connections;
    }
  }
  ++passes_;
}

bool WorkerLeaving::again() const {
  return taking_() ||
         std::ranges::any_of(pods_, [this](const auto& each) { return served_.contains(each.first) && !each.second->empty(); });
}

std::optional<handover::UnitSource::Frozen> WorkerLeaving::next() noexcept {
  for (; !waiting_.empty(); waiting_.pop_back()) {
    const auto pod = pods_.find(waiting_.back());
    if (pod == pods_.end()) continue;
    frozen_since_ = Clock::now();
    auto frozen = pod->second->units().next([this](std::string_view why) { ++counts_.causes[std::string(why)]; });
    if (!frozen) continue;
    giving_ = pod->first;
    return frozen;
  }
  // Not from inside of its call.
  pass_timer_.start_after(again() ? Clock::duration(kNextPass) : Clock::duration::zero(), [this] {
    if (!again() || Clock::now() >= until_) return leaving_.finish();
    begin_pass();
    leaving_.go_on();
  });
  return std::nullopt;
}

void WorkerLeaving::gone() noexcept {
  ++counts_.units;
  counts_.longest_stop = std::max<Clock::duration>(counts_.longest_stop, Clock::now() - frozen_since_);
  const auto pod = pods_.find(giving_);
  if (pod == pods_.end()) return;
  const size_t connections = pod->second->units().gone();
  counts_.connections += connections;
  worker_.metrics().handover_connections.get({"given"}).add(connections);
  // Between two units, when nobody stands still for it.
  if ((held_back_ += connections) < kGivenAtOnce) return;
  held_back_ = 0;
  ::malloc_trim(0);
}

void WorkerLeaving::stays(const Error& why) noexcept {
  ++counts_.refused;
  ++counts_.causes["the next process refused it"];
  counts_.refusal = why.text;
  if (const auto pod = pods_.find(giving_); pod != pods_.end()) pod->second->units().stays();
}

HandOverCounts WorkerLeaving::counts() const {
  HandOverCounts now = counts_;
  for (const auto& [uid, pod] : pods_) now.left += pod->connection_count();
  return now;
}

WorkerArriving::WorkerArriving(Worker& worker, PodWorkers& pods, UniqueFd socket, handover::Hello hello,
                               std::function<void(size_t units, const Error& why)> over)
    : worker_(worker),
      pods_(pods),
      arriving_(worker.loop(), std::move(socket), std::move(hello), *this,
                [this, over = std::move(over)](const Error& why) { over(units_, why); }) {}

PodWorker* WorkerArriving::pod() {
  const auto found = pods_.find(coming_);
  return found != pods_.end() ? found->second.get() : nullptr;
}

Result<> WorkerArriving::prepare(handover::Unit unit, std::vector<UniqueFd> descriptors) noexcept {
  coming_ = std::visit([](const auto& each) { return each.pod; }, unit);
  PodWorker* const to = pod();
  if (to == nullptr) return fail(Reason::kNoWorkload, "the pod is not served here");
  return to->units().prepare(this, std::move(unit), std::move(descriptors));
}

void WorkerArriving::run() noexcept {
  ++units_;
  if (PodWorker* const to = pod()) worker_.metrics().handover_connections.get({"taken"}).add(to->units().run(this));
}

void WorkerArriving::drop() noexcept {
  if (PodWorker* const to = pod()) to->units().drop(this);
}

}  // namespace zt::ztunnel
