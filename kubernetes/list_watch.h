#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/backoff.h"
#include "base/event_loop.h"
#include "kubernetes/api.h"
#include "kubernetes/objects.h"

namespace zt::kubernetes {

// Keeps a copy of all objects of one kind: lists them, page by page, and then watches for what changes. A watch that ends is
// taken up where it was; one whose place the server has forgotten (410), or does not know, makes a new list. Whatever fails is said once, and
// tried again after growing pauses, for ever; the copy stays meanwhile. It says that something changed and not what: who asks
// compares with what he has, so merged, repeated or reordered events are all the same. Loop's thread.
class ListWatch {
 public:
  struct Options {
    std::string path;                 // "/api/v1/pods"
    std::string field_selector = {};  // "spec.nodeName=node-a"
    size_t page = 100;                // objects; halved, for good, when a page is larger than page_bytes
    size_t page_bytes = 32u << 20;
    // Of one watch event. A longer one is passed over: the object stays as it was. etcd takes no object of more than 1.5 MiB.
    size_t event_bytes = 4u << 20;
    size_t most_objects = 100'000;
    std::chrono::seconds watch_time{300};  // asked for, and up to half as much again, by chance
    // A watch in which nothing came for so long is taken up anew, without a pause: a connection that has died looks the same.
    std::chrono::milliseconds watch_idle{90'000};
    std::chrono::milliseconds answer_limit{15'000};  // of lists
    Backoff::Duration first_pause{200}, most_pause{30'000};
    Backoff::Random random = Backoff::any_random();
  };
  using Objects = std::map<std::string, Object, std::less<>>;  // by Object::key()

  // `on_change`: synced() came to hold, or objects() changed since it was called last. May destroy nothing of ours.
  ListWatch(EventLoop& loop, Api& api, Options options, std::function<void()> on_change);
  void start();

  [[nodiscard]] bool synced() const { return synced_; }  // a whole list has been read
  [[nodiscard]] const Objects& objects() const { return objects_; }
  [[nodiscard]] const std::string& last_error() const { return last_error_; }  // empty: all is well

  struct Counts {
    uint64_t lists = 0;  // begun
    uint64_t watches = 0;
    uint64_t failures = 0;
    uint64_t bad_objects = 0;
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  void list();  // from the first page
  void next_page();
  void watch();
  void begin(ApiRequest request);
  void on_head(const ApiHead& head);
  void on_data(const std::string& data);
  void on_end(const Result<>& end);
  void take_page();
  void take_lines(std::string_view data);
  bool take_event(std::string_view line);  // false: the watch is over
  void take_bad(const BadObject& bad);
  void refused(const Status& status);
  void try_again(const Error& error, std::chrono::milliseconds least = {});
  void note(const Error& error);
  void end_call();

  Api& api_;
  const Options options_;
  const std::function<void()> on_change_;
  Backoff backoff_;
  Timer pause_;
  std::unique_ptr<ApiCall> call_;
  enum class Doing : uint8_t { kListing, kWatching } doing_ = Doing::kListing;
  ApiHead head_;
  std::string body_;       // of a list, of a refusal; the beginning of a line of a watch
  bool skipping_ = false;  // the rest of a line that is too long
  size_t page_;
  std::string continue_;
  Objects coming_;  // pages so far
  Objects objects_;
  std::string version_;
  Clock::time_point began_{};
  Clock::time_point heard_at_{};  // when the server last said anything, an answer's head included
  bool heard_ = false;            // this watch said something
  bool ended_at_once_ = false;    // so did the one before, having said nothing
  bool changed_ = false;
  bool synced_ = false;
  std::string last_error_;
  Counts counts_;
};

}  // namespace zt::kubernetes
