#pragma once
#ifndef NDEBUG
#include <cassert>
#include <thread>
#endif

namespace zt {

// For classes whose objects belong to one thread and have no lock: check() in what they do says in debug builds, at once and in the
// right place, what the thread sanitizer would say some time. The first call decides which thread it is: objects are often made by
// another one. In release builds it is nothing and takes no room ([[no_unique_address]]).
#ifndef NDEBUG
class ThreadChecker {
 public:
  void check() const {
    if (owner_ == std::thread::id()) owner_ = std::this_thread::get_id();
    assert(owner_ == std::this_thread::get_id() && "this object belongs to another thread");
  }

 private:
  mutable std::thread::id owner_;
};
#else
class ThreadChecker {
 public:
  void check() const {}
};
#endif

}  // namespace zt
