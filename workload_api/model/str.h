#pragma once
#include <atomic>
#include <compare>
#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace zt::workload_api {

// Immutable shared text in one pointer; the empty text owns nothing. Comparison is bytewise. Copies may be
// made and dropped on any thread. The store lets equal texts share one block (interner.h); a Str made from a
// string_view has a block of its own.
class Str {
 public:
  constexpr Str() noexcept = default;
  Str(std::string_view text) : block_(text.empty() ? nullptr : allocate(text)) {}
  Str(const std::string& text) : Str(std::string_view(text)) {}
  Str(const char* text) : Str(std::string_view(text)) {}
  Str(const Str& other) noexcept : block_(other.block_) {
    if (block_ != nullptr) block_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  Str(Str&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Str& operator=(Str other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Str() {
    if (block_ != nullptr && (block_->refs.fetch_sub(1, std::memory_order_acq_rel) & kCount) == 1) deallocate(block_);
  }

  [[nodiscard]] std::string_view view() const noexcept {
    return block_ == nullptr ? std::string_view{} : std::string_view(text_of(block_), block_->size);
  }
  operator std::string_view() const noexcept { return view(); }
  [[nodiscard]] std::string str() const { return std::string(view()); }
  [[nodiscard]] bool empty() const noexcept { return block_ == nullptr; }
  [[nodiscard]] size_t size() const noexcept { return block_ == nullptr ? 0 : block_->size; }

  // Tells texts apart without reading them: the same for copies, and for equal texts of one interner.
  [[nodiscard]] const void* identity() const noexcept { return block_; }

  // For the interner. Nobody but the caller has this text: meaningful only to one who can prevent new copies.
  [[nodiscard]] bool unshared() const noexcept {
    return block_ == nullptr || (block_->refs.load(std::memory_order_acquire) & kCount) == 1;
  }
  // It came from an interner. (Of several in a process perhaps another one: texts are then shared less.)
  [[nodiscard]] bool interned() const noexcept {
    return block_ == nullptr || (block_->refs.load(std::memory_order_relaxed) & kInterned) != 0;
  }
  void mark_interned() const noexcept {
    if (block_ != nullptr) block_->refs.fetch_or(kInterned, std::memory_order_relaxed);
  }

  friend bool operator==(const Str& a, const Str& b) noexcept { return a.block_ == b.block_ || a.view() == b.view(); }
  friend std::strong_ordering operator<=>(const Str& a, const Str& b) noexcept {
    return a.block_ == b.block_ ? std::strong_ordering::equal : a.view() <=> b.view();
  }
  template <class T>
    requires(std::convertible_to<const T&, std::string_view> && !std::same_as<std::remove_cvref_t<T>, Str>)
  friend bool operator==(const Str& a, const T& b) noexcept {
    return a.view() == std::string_view(b);
  }

 private:
  static constexpr uint32_t kInterned = 0x80000000;
  static constexpr uint32_t kCount = kInterned - 1;
  struct Block {
    mutable std::atomic<uint32_t> refs;  // and the mark kInterned
    uint32_t size;
    // followed by `size` bytes of text
  };
  static const char* text_of(const Block* block) { return reinterpret_cast<const char*>(block + 1); }
  static const Block* allocate(std::string_view text);
  static void deallocate(const Block* block) noexcept;

  const Block* block_ = nullptr;
};

}  // namespace zt::workload_api

template <>
struct std::hash<zt::workload_api::Str> {
  size_t operator()(const zt::workload_api::Str& text) const noexcept { return std::hash<std::string_view>{}(text.view()); }
};

namespace zt::workload_api {
// For hash tables of Str that are asked with any text.
struct StrHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};
struct StrEqual {
  using is_transparent = void;
  bool operator()(std::string_view a, std::string_view b) const noexcept { return a == b; }
};
}  // namespace zt::workload_api
