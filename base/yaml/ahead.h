#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace zt::yaml {

// What a thread of its own makes, for one that uses it meanwhile: at most so many things wait.
template <class T>
class Ahead {
 public:
  // `make` is called on the new thread until it returns nothing or this is destroyed, which waits for a call at hand. It must not
  // throw.
  Ahead(size_t most, std::function<std::optional<T>()> make)
      : most_(most), thread_([this, make = std::move(make)] { run(make); }) {}
  Ahead(const Ahead&) = delete;
  Ahead& operator=(const Ahead&) = delete;
  ~Ahead() {
    {
      const std::lock_guard lock(mutex_);
      unwanted_ = true;
    }
    changed_.notify_all();
  }

  // Nothing at the end.
  std::optional<T> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !made_.empty() || ended_; });
    if (made_.empty()) return std::nullopt;
    std::optional<T> first(std::move(made_.front()));
    made_.pop_front();
    changed_.notify_all();
    return first;
  }

 private:
  void run(const std::function<std::optional<T>()>& make) {
    while (std::optional<T> one = make()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return made_.size() < most_ || unwanted_; });
      if (unwanted_) break;
      made_.push_back(std::move(*one));
      changed_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  const size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> made_;
  bool ended_ = false, unwanted_ = false;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace zt::yaml
