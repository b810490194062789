#pragma once
#include <boost/intrusive/list.hpp>
#include <utility>

#include "base/task.h"
#include "hbone/connect_headers.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

// A CONNECT that is being dealt with, a peer's or ours, as whoever deals with it shows it to a hand-over (pod_units.h). While it is `frozen`
// nothing may be done with its stream, and this must stay; when it is `gone` another process deals with it, and nothing more is said of it
// here. Worker's thread.
struct RequestOnItsWay final : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
  explicit RequestOnItsWay(StreamRelay& of) : relay(of) {}

  // If it is frozen: after each wait, before the stream is touched.
  [[nodiscard]] auto thawed(EventLoop& loop) {
    waiting_ = true;
    return over_.wait(loop, kLongest);
  }
  void freeze() {
    frozen = true;
    over_.clear();
  }
  // Last use of *this: whoever waits goes on.
  void go_on() {
    frozen = false;
    if (std::exchange(waiting_, false)) over_.set();
  }
  void leave() {
    relay.detach();
    gone = true;
    if (frozen && !waiting_ && application >= 0) {
      frozen = false;
      return relay.answered().set();
    }
    go_on();
  }

  StreamRelay& relay;
  Connection* connection = nullptr;                 // once there is one
  int application = -1;                             // ours: the application's socket
  const hbone::ReceivedConnect* request = nullptr;  // a peer's
  bool frozen = false;
  bool gone = false;

 private:
  // Longer than a unit may be frozen (handover/protocol.h).
  static constexpr std::chrono::seconds kLongest{10};
  bool waiting_ = false;
  Event over_;
};
using RequestsOnTheirWay = boost::intrusive::list<RequestOnItsWay, boost::intrusive::constant_time_size<false>>;

}  // namespace zt::ztunnel
