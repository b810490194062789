#pragma once
#include <boost/intrusive/list.hpp>
#include <utility>

#include "base/task.h"
#include "hbone/connect_headers.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

namespace requests {
template <class Tag>
using Hook =
    boost::intrusive::list_base_hook<boost::intrusive::tag<Tag>, boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
template <class T, class Tag>
using List = boost::intrusive::list<T, boost::intrusive::base_hook<Hook<Tag>>, boost::intrusive::constant_time_size<false>>;
struct OfPod;
struct OfUnit;
}  // namespace requests

// A CONNECT that is being dealt with, a peer's or ours, as whoever deals with it shows it to a hand-over (pod_units.h). While it is frozen
// nothing may be done with its stream, and this must stay; when it is `gone` another process deals with it, and nothing more is said of it
// here. Worker's thread.
struct RequestOnItsWay final : requests::Hook<requests::OfPod>, requests::Hook<requests::OfUnit> {
  explicit RequestOnItsWay(StreamRelay& of) : relay(&of) { of.request = this; }
  RequestOnItsWay(const RequestOnItsWay&) = delete;
  ~RequestOnItsWay() {
    if (relay != nullptr) relay->request = nullptr;
  }

  // A hand-over may ask for it.
  [[nodiscard]] bool known() const { return requests::Hook<requests::OfPod>::is_linked(); }
  // With the unit that it belongs to.
  [[nodiscard]] bool frozen() const { return requests::Hook<requests::OfUnit>::is_linked(); }
  // If it is frozen: after each wait, before the stream is touched.
  [[nodiscard]] auto thawed(EventLoop& loop) {
    waiting_ = true;
    return over_.wait(loop, kLongest);
  }
  void freeze(requests::List<RequestOnItsWay, requests::OfUnit>& unit) {
    unit.push_back(*this);
    over_.clear();
  }
  // Last use of *this: whoever waits goes on.
  void go_on() {
    requests::Hook<requests::OfUnit>::unlink();
    if (std::exchange(waiting_, false)) over_.set();
  }
  void leave() {
    if (relay != nullptr) relay->detach();
    gone = true;
    if (frozen() && !waiting_ && application >= 0 && relay != nullptr) {
      requests::Hook<requests::OfUnit>::unlink();
      return relay->answered().set();
    }
    go_on();
  }

  StreamRelay* relay;                               // null: it is gone
  Connection* connection = nullptr;                 // once there is one
  int application = -1;                             // ours: the application's socket
  bool socks = false;                               // ours: the application waits to be told of its connection (RFC 1928)
  const hbone::ReceivedConnect* request = nullptr;  // a peer's
  bool gone = false;

 private:
  // Longer than a unit may be frozen (handover/protocol.h).
  static constexpr std::chrono::seconds kLongest{10};
  bool waiting_ = false;
  Event over_;
};
using RequestsOnTheirWay = requests::List<RequestOnItsWay, requests::OfPod>;
using RequestsOfUnit = requests::List<RequestOnItsWay, requests::OfUnit>;

}  // namespace zt::ztunnel
