#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace zt::yaml {

// Memory for values that all go at once: rewind() takes back everything since a place, and what was is used again.
class Arena {
 public:
  struct Place {
    size_t chunk = 0;
    size_t used = 0;
  };
  [[nodiscard]] Place place() const { return at_; }
  void rewind(Place place) { at_ = place; }

  template <class T>
  T* make() {
    static_assert(std::is_trivially_destructible_v<T>);
    return new (take(sizeof(T), alignof(T))) T();
  }
  std::string_view copy(std::string_view text) {
    if (text.empty()) return {};
    char* to = static_cast<char*>(take(text.size(), 1));
    std::memcpy(to, text.data(), text.size());
    return {to, text.size()};
  }

 private:
  static constexpr size_t kChunk = 64 * 1024;
  struct Chunk {
    std::unique_ptr<std::byte[]> bytes;
    size_t size;
  };

  void* take(size_t size, size_t alignment) {
    for (;; ++at_.chunk, at_.used = 0) {
      if (at_.chunk == chunks_.size()) {
        const size_t bytes = std::max(kChunk, size);
        chunks_.push_back({std::make_unique_for_overwrite<std::byte[]>(bytes), bytes});
      }
      const size_t start = (at_.used + alignment - 1) / alignment * alignment;
      if (start + size > chunks_[at_.chunk].size) continue;
      at_.used = start + size;
      return chunks_[at_.chunk].bytes.get() + start;
    }
  }

  std::vector<Chunk> chunks_;
  Place at_;
};

}  // namespace zt::yaml
