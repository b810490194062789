#include "ztunnel/proxy/state_view.h"

#include <utility>

namespace zt::ztunnel {

namespace {
// How long one turn goes on holding a new snapshot against what is open.
constexpr std::chrono::microseconds kSweepTurn{200};
}  // namespace

void StateView::take(workload_api::SnapshotPtr snapshot) {
  snapshot_ = std::move(snapshot);
  // Waiters may wait again at once: they get a new event.
  auto changed = std::exchange(changed_, std::make_shared<Event>());
  changed->set();
  for (Listener& listener : listeners_) {
    if (!listener.queued_.is_linked()) {
      sweep_.push_back(listener);
    } else if (listener.begun_) {
      listener.again_ = true;  // after the others: snapshots that come fast must not keep the last of them from its turn
    }
  }
  sweep();
}

void StateView::sweep() {
  const auto until = Clock::now() + kSweepTurn;
  while (!sweep_.empty()) {
    Listener& listener = sweep_.front();
    if (listener.step_(*snapshot_, !std::exchange(listener.begun_, true))) {
      sweep_.pop_front();
      listener.begun_ = false;
      if (std::exchange(listener.again_, false)) sweep_.push_back(listener);
    }
    if (Clock::now() >= until) break;
  }
  if (!sweep_.empty()) sweep_timer_.start_after(Clock::duration::zero(), [this] { sweep(); });
}

}  // namespace zt::ztunnel
