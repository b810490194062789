#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace zt::workload_api {

// Base of objects that are shared between threads once they are complete. The count lives in the object, so a
// handle is 8 bytes (a million workloads are named by several tables each) and a plain pointer from a lookup
// can be turned into an owning handle.
class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) noexcept {}  // a copy is a new object: nobody holds it yet
  RefCounted& operator=(const RefCounted&) noexcept { return *this; }
  friend bool operator==(const RefCounted&, const RefCounted&) noexcept { return true; }  // not part of the value

 protected:
  ~RefCounted() = default;

 private:
  template <class T>
  friend class Ref;
  mutable std::atomic<uint32_t> refs_{0};
};

// Owning handle of a RefCounted object; null by default. Copying and dropping are safe on any thread, the
// object itself must be immutable by then. The last handle deletes the object on the thread that drops it.
template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(std::nullptr_t) {}
  explicit Ref(T* object) : object_(object) { retain(); }
  Ref(const Ref& other) : object_(other.object_) { retain(); }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <class U>
    requires std::is_convertible_v<U*, T*>
  Ref(const Ref<U>& other) : object_(other.get()) {
    retain();
  }
  template <class U>
    requires std::is_convertible_v<U*, T*>
  Ref(Ref<U>&& other) noexcept : object_(other.detach()) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { release(); }

  [[nodiscard]] T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  friend bool operator==(const Ref& a, const Ref& b) { return a.object_ == b.object_; }
  friend bool operator==(const Ref& a, std::nullptr_t) { return a.object_ == nullptr; }

  // Nobody else holds the object. Meaningful only to one who can prevent new handles of it.
  [[nodiscard]] bool unshared() const { return object_ != nullptr && object_->refs_.load(std::memory_order_acquire) == 1; }

  // Gives up the pointer without dropping the reference it stands for.
  [[nodiscard]] T* detach() { return std::exchange(object_, nullptr); }

 private:
  void retain() const {
    if (object_ != nullptr) object_->refs_.fetch_add(1, std::memory_order_relaxed);
  }
  void release() {
    if (object_ != nullptr && object_->refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete object_;
  }
  T* object_ = nullptr;
};

template <class T, class... Args>
[[nodiscard]] Ref<T> make_ref(Args&&... args) {
  return Ref<T>(new T(std::forward<Args>(args)...));
}

// The object of `handle` for changing: itself if nobody else holds it, else a copy that takes its place (or
// a new one, if there is none).
template <class T>
[[nodiscard]] T& own(Ref<T>& handle) {
  if (!handle) {
    handle = make_ref<T>();
  } else if (!handle.unshared()) {
    handle = make_ref<T>(*handle);
  }
  return *handle;
}

}  // namespace zt::workload_api
