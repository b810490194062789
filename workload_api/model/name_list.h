#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>

#include "workload_api/model/str.h"

namespace zt::workload_api {

// Texts in their order, immutable. Kept packed in a Str as PortMap is: what names the same ones, as the workloads under one policy
// do, then shares one.
class NameList {
 public:
  class Iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    Iterator() = default;
    explicit Iterator(const char* at) : at_(at) {}
    std::string_view operator*() const { return {at_ + sizeof(uint32_t), size()}; }
    Iterator& operator++() {
      at_ += sizeof(uint32_t) + size();
      return *this;
    }
    Iterator operator++(int) {
      const Iterator before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    [[nodiscard]] uint32_t size() const {
      uint32_t size = 0;
      std::memcpy(&size, at_, sizeof size);
      return size;
    }
    const char* at_ = nullptr;
  };

  NameList() = default;
  NameList(std::initializer_list<std::string_view> names) : NameList(names.begin(), names.end()) {}
  template <class In>
  NameList(In first, In last) {
    std::string packed;
    for (; first != last; ++first) {
      const std::string_view name(*first);
      const auto size = static_cast<uint32_t>(name.size());
      packed.append(reinterpret_cast<const char*>(&size), sizeof size).append(name);
    }
    packed_ = Str(packed);
  }

  [[nodiscard]] Iterator begin() const { return Iterator(packed_.view().data()); }
  [[nodiscard]] Iterator end() const { return Iterator(packed_.view().data() + packed_.size()); }
  [[nodiscard]] bool empty() const { return packed_.empty(); }

  friend bool operator==(const NameList&, const NameList&) = default;

 private:
  friend class Interner;
  Str packed_;  // of each its length and itself
};

}  // namespace zt::workload_api
