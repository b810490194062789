#pragma once
#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/event_loop.h"

namespace zt::workload_api {

// Longest wait of one lookup.
inline constexpr std::chrono::seconds kLookupLimit{5};
// Lookups that may wait at a time; more are refused.
inline constexpr size_t kMaxLookupsWaiting = 16384;
// Of them, those of one asker unless it is set: a pod that scans addresses must leave room for the others.
inline constexpr size_t kMaxLookupsOfAsker = 1024;
// What each asker may have waiting although many others have filled the table.
inline constexpr size_t kLookupsAlways = 16;
// Keys subscribed on one stream. They cannot be given back one by one (istiod then removes all others), so a
// stream that has this many is replaced by a fresh one.
inline constexpr size_t kMaxKeysPerStream = 16384;

enum class LookupAnswer : uint8_t {
  kAnswered,  // the control plane has said what it knows: look into the newest snapshot
  kTimedOut,  // it has not, within kLookupLimit
  kRefused,   // too many wait already, or we are shutting down
};
using LookupDone = std::function<void(LookupAnswer)>;

// Who waits for which key ("network/ip", a workload's uid, "namespace/hostname") in on-demand mode, and what
// has been asked for on the present stream. What istiod makes of subscriptions decides the rules (contract
// §6.4):
// - it answers a key by a resource of that name, by one that has the key among its aliases, or by a removal;
// - it does not answer a second subscription to the same key: a key is asked for once a stream, whoever asks
//   next joins those who wait, and one that has been answered is answered at once, because istiod keeps us
//   informed about it;
// - never unsubscribe.
// Sans I/O; control thread. Callbacks run inside the calls and may look up again.
class OnDemandKeys {
 public:
  explicit OnDemandKeys(size_t per_asker = kMaxLookupsOfAsker) : per_asker_(per_asker) {}
  // True: send a subscription to `key` now. `asker`: on whose behalf, such as a pod's uid; bounds are counted by it.
  [[nodiscard]] bool look_up(const std::string& key, const std::string& asker, Clock::time_point now, LookupDone done);

  // A new stream: the keys to subscribe to again. Answered ones are not among them: what they led to is
  // retained by name.
  [[nodiscard]] std::vector<std::string> start_stream();
  void end_stream() { streaming_ = false; }

  // A name came, as a resource, as an alias or as a removal.
  void answered(std::string_view name);
  // Runs what `answered` has released. Separate, because they look into a snapshot that must be published
  // first.
  void release();

  [[nodiscard]] std::optional<Clock::time_point> next_deadline() const;
  void expire(Clock::time_point now);
  void refuse_all();

  [[nodiscard]] bool empty() const { return keys_.empty(); }
  [[nodiscard]] bool stream_is_full() const { return streaming_ && full_; }
  [[nodiscard]] size_t waiting() const { return waiters_.size(); }
  [[nodiscard]] size_t keys() const { return keys_.size(); }
  [[nodiscard]] uint64_t lookups() const { return lookups_; }
  [[nodiscard]] uint64_t timeouts() const { return timeouts_; }
  [[nodiscard]] uint64_t refused() const { return refused_; }

 private:
  using Askers = std::unordered_map<std::string, size_t>;  // how many of theirs wait
  struct Waiter : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
    Waiter(Clock::time_point when, const std::string& of, Askers::value_type& whose, LookupDone then)
        : deadline(when), key(of), asker(whose), done(std::move(then)) {}
    Clock::time_point deadline;
    const std::string& key;
    Askers::value_type& asker;
    LookupDone done;
    std::list<Waiter>::iterator place;
  };
  struct Key {
    bool answered = false;
    boost::intrusive::list<Waiter, boost::intrusive::constant_time_size<false>> waiters;
  };
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  [[nodiscard]] bool has_room(const std::string& asker) const;
  // Forgets who waits; returns how to tell.
  LookupDone take(Waiter& waiter);

  const size_t per_asker_;
  std::unordered_map<std::string, Key, TextHash, std::equal_to<>> keys_;
  Askers askers_;
  std::list<Waiter> waiters_;  // by deadline
  std::vector<LookupDone> released_;
  bool streaming_ = false;
  bool full_ = false;
  uint64_t lookups_ = 0;
  uint64_t timeouts_ = 0;
  uint64_t refused_ = 0;
};

}  // namespace zt::workload_api
