#pragma once
#include <boost/intrusive/list.hpp>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/task.h"
#include "workload_api/store/snapshot.h"

namespace zt::ztunnel {

// What one worker knows of the mesh: the newest snapshot that has reached it, who waits for the next one, and who has yet to
// hold it against what is open. Worker's thread.
class StateView {
 public:
  // What a new snapshot asks of a pod, a piece a call, so that ten thousand connections that are judged anew keep nobody
  // waiting: `anew` begins from the start; returns whether nothing is left. The snapshot of a later piece may be newer than
  // that of the first; the pod is then gone through once more.
  using Step = std::function<bool(const workload_api::Snapshot&, bool anew)>;

  // Who goes through each new snapshot, until it is destroyed (not from inside its own step).
  class Listener {
   public:
    Listener(StateView& view, Step step) : step_(std::move(step)) { view.listeners_.push_back(*this); }
    Listener(const Listener&) = delete;

   private:
    friend class StateView;
    using Hook = boost::intrusive::list_member_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
    Step step_;
    Hook all_;
    Hook queued_;         // linked: has not gone through the newest snapshot
    bool begun_ = false;  // its first piece is done
    bool again_ = false;  // a newer snapshot came since
  };

  explicit StateView(EventLoop& loop) : loop_(loop) {}
  StateView(const StateView&) = delete;

  [[nodiscard]] const workload_api::SnapshotPtr& snapshot() const { return snapshot_; }
  // Waits for the next snapshot; false if `limit` passed first.
  Event::Wait next(Clock::duration limit) { return changed_->wait(loop_, limit); }
  void take(workload_api::SnapshotPtr snapshot);

 private:
  template <Listener::Hook Listener::* kHook>
  using List = boost::intrusive::list<Listener, boost::intrusive::member_hook<Listener, Listener::Hook, kHook>,
                                      boost::intrusive::constant_time_size<false>>;
  void sweep();

  EventLoop& loop_;
  workload_api::SnapshotPtr snapshot_ = std::make_shared<const workload_api::Snapshot>();
  std::shared_ptr<Event> changed_ = std::make_shared<Event>();
  List<&Listener::all_> listeners_;
  List<&Listener::queued_> sweep_;
  Timer sweep_timer_{loop_};
};

}  // namespace zt::ztunnel
