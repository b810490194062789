#pragma once
#include <nghttp2/nghttp2.h>

#include <array>
#include <cstddef>

namespace zt::hbone {

// What an nghttp2 session allocates from. Its one large allocation is a buffer of the largest frame that it has sent (1 MiB for ours),
// into which it never writes a payload, since payloads lie in record slots; from the heap it would sooner or later be pages that
// were used before, held for as long as the tunnel lives. Mapped, and never touched, it costs addresses only. One per session.
class SessionMemory {
 public:
  SessionMemory() = default;
  ~SessionMemory();
  SessionMemory(const SessionMemory&) = delete;
  // For nghttp2_session_…_new3(), which copies it.
  [[nodiscard]] nghttp2_mem allocator();
  [[nodiscard]] size_t mapped() const;

  static constexpr size_t kMappedFrom = 32 * 1024;

 private:
  struct Block {
    void* at = nullptr;
    size_t bytes = 0;
  };
  static void* allocate(size_t bytes, void* self);
  static void* allocate_zeroed(size_t count, size_t bytes, void* self);
  static void* change(void* at, size_t bytes, void* self);
  static void release(void* at, void* self);
  Block* find(const void* at);
  void* map(size_t bytes);

  std::array<Block, 2> blocks_;  // the old one and the new one, while it grows; more come from the heap
};

}  // namespace zt::hbone
