#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "hbone/tls/key_schedule.h"

// The bytes of what goes from one process to the next: little-endian, strings and structs with their length in front (docs/handover.md).
namespace zt::handover {

// What it holds is wiped when it is freed, and when it moves to more room: traffic secrets pass through.
template <class T>
struct WipingAllocator {
  using value_type = T;
  WipingAllocator() = default;
  template <class U>
  WipingAllocator(const WipingAllocator<U>&) {}
  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* at, size_t count) {
    hbone::wipe({reinterpret_cast<uint8_t*>(at), count * sizeof(T)});
    std::allocator<T>().deallocate(at, count);
  }
  friend bool operator==(const WipingAllocator&, const WipingAllocator&) { return true; }
};
using SecretBytes = std::vector<uint8_t, WipingAllocator<uint8_t>>;

class Writer {
 public:
  template <std::integral T>
  void number(T value) {
    using Bits = std::make_unsigned_t<std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>>;
    auto bits = static_cast<Bits>(value);
    for (size_t i = 0; i < sizeof(Bits); ++i, bits = static_cast<Bits>(uint64_t{bits} >> 8))
      out_.push_back(static_cast<uint8_t>(bits));
  }
  void bytes(std::span<const uint8_t> value) {
    number(static_cast<uint32_t>(value.size()));
    out_.insert(out_.end(), value.begin(), value.end());
  }
  void text(std::string_view value) { bytes({reinterpret_cast<const uint8_t*>(value.data()), value.size()}); }
  // `write(*this)` between a length and its end.
  template <class Write>
  void record(Write write) {
    const size_t at = out_.size();
    number(uint32_t{0});
    write(*this);
    const auto size = static_cast<uint32_t>(out_.size() - at - sizeof(uint32_t));
    for (int i = 0; i < 4; ++i) out_[at + static_cast<size_t>(i)] = static_cast<uint8_t>(size >> 8 * i);
  }
  template <class List, class Write>
  void list(const List& values, Write write) {
    number(static_cast<uint32_t>(values.size()));
    for (const auto& each : values) write(*this, each);
  }
  template <class T, class Write>
  void optional(const T& value, Write write) {
    number(static_cast<bool>(value));
    if (value) write(*this, *value);
  }
  [[nodiscard]] const SecretBytes& out() const { return out_; }
  [[nodiscard]] SecretBytes take() { return std::move(out_); }

 private:
  SecretBytes out_;
};

// Reads what a Writer wrote, or finds out that it did not: the first thing that is wrong is remembered, and everything read after it is empty.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : rest_(bytes) {}

  template <std::integral T>
  void number(T& value) {
    using Bits = std::make_unsigned_t<std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>>;
    const auto from = take(sizeof(Bits), "a number");
    uint64_t bits = 0;
    for (size_t i = 0; i < from.size(); ++i) bits |= uint64_t{from[i]} << 8 * i;
    if constexpr (std::is_same_v<T, bool>) {
      if (bits > 1) fail("a truth value of more than 1");
      value = bits == 1;
    } else {
      value = static_cast<T>(static_cast<Bits>(bits));
    }
  }
  // `most` is what such a thing may have at most.
  [[nodiscard]] std::span<const uint8_t> bytes(size_t most) {
    uint32_t size = 0;
    number(size);
    if (size > most) fail("more bytes than allowed");
    return take(wrong_ == nullptr ? size : 0, "bytes");
  }
  void bytes(std::vector<uint8_t>& value, size_t most) {
    const auto from = bytes(most);
    value.assign(from.begin(), from.end());
  }
  void text(std::string& value, size_t most) {
    const auto from = bytes(most);
    value.assign(reinterpret_cast<const char*>(from.data()), from.size());
  }
  // All of the next record's bytes must be wanted by `read(*this)`.
  template <class Read>
  void record(Read read) {
    const auto inside = bytes(SIZE_MAX);
    const auto after = std::exchange(rest_, inside);
    read(*this);
    if (!rest_.empty()) fail("bytes behind a struct's end");
    rest_ = after;
  }
  template <class T, class Read>
  void list(std::vector<T>& values, size_t most, Read read) {
    uint32_t count = 0;
    number(count);
    if (count > most) fail("a longer list than allowed");
    for (uint32_t i = 0; i < count && wrong_ == nullptr; ++i) read(*this, values.emplace_back());
  }
  template <class T, class Read>
  void optional(std::optional<T>& value, Read read) {
    bool there = false;
    number(there);
    if (there) read(*this, value.emplace());
  }
  void fail(const char* what) {
    if (wrong_ == nullptr) wrong_ = what;
    rest_ = {};
  }
  [[nodiscard]] bool at_end() const { return rest_.empty(); }
  [[nodiscard]] const char* wrong() const { return wrong_; }  // null: nothing

 private:
  std::span<const uint8_t> take(size_t size, const char* what) {
    if (size > rest_.size()) {
      fail(what);
      return {};
    }
    const auto from = rest_.first(size);
    rest_ = rest_.subspan(size);
    return from;
  }
  std::span<const uint8_t> rest_;
  const char* wrong_ = nullptr;
};

}  // namespace zt::handover
