#pragma once
#include <boost/smart_ptr/intrusive_ptr.hpp>
#include <boost/smart_ptr/intrusive_ref_counter.hpp>
#include <utility>

namespace zt::workload_api {

// Owning handle of a RefCounted object; null by default. Copying and dropping are safe on any thread, the
// object itself must be immutable by then. The last handle deletes the object on the thread that drops it.
template <class T>
using Ref = boost::intrusive_ptr<T>;

// Base of objects that are shared between threads once they are complete. The count lives in the object, so a
// handle is 8 bytes (a million workloads are named by several tables each) and a plain pointer from a lookup
// can be turned into an owning handle.
template <class T>
struct RefCounted : boost::intrusive_ref_counter<T, boost::thread_safe_counter> {
  friend bool operator==(const RefCounted&, const RefCounted&) noexcept { return true; }  // not part of the value
};

template <class T, class... Args>
[[nodiscard]] Ref<T> make_ref(Args&&... args) {
  return Ref<T>(new T(std::forward<Args>(args)...));
}

// Nobody else holds the object. Meaningful only to one who can prevent new handles of it.
template <class T>
[[nodiscard]] bool unshared(const Ref<T>& handle) {
  return handle && handle->use_count() == 1;
}

// The object of `handle` for changing: itself if nobody else holds it, else a copy that takes its place (or
// a new one, if there is none).
template <class T>
[[nodiscard]] T& own(Ref<T>& handle) {
  if (!handle) {
    handle = make_ref<T>();
  } else if (!unshared(handle)) {
    handle = make_ref<T>(*handle);
  }
  return *handle;
}

}  // namespace zt::workload_api
