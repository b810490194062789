#include "hbone/session_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace zt::hbone {

SessionMemory::~SessionMemory() {
  for (const Block& block : blocks_) {
    if (block.at != nullptr) munmap(block.at, block.bytes);
  }
}

nghttp2_mem SessionMemory::allocator() {
  return {.mem_user_data = this, .malloc = allocate, .free = release, .calloc = allocate_zeroed, .realloc = change};
}

size_t SessionMemory::mapped() const {
  size_t bytes = 0;
  for (const Block& block : blocks_) bytes += block.bytes;
  return bytes;
}

SessionMemory::Block* SessionMemory::find(const void* at) {
  const auto found = std::ranges::find(blocks_, at, &Block::at);
  return at == nullptr || found == blocks_.end() ? nullptr : &*found;
}

// Null if there is no place for it or no memory.
void* SessionMemory::map(size_t bytes) {
  const auto place = std::ranges::find(blocks_, nullptr, &Block::at);
  if (bytes < kMappedFrom || place == blocks_.end()) return nullptr;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  *place = {at, bytes};
  return at;
}

void* SessionMemory::allocate(size_t bytes, void* self) {
  void* at = static_cast<SessionMemory*>(self)->map(bytes);
  return at != nullptr ? at : std::malloc(bytes);
}

void* SessionMemory::allocate_zeroed(size_t count, size_t bytes, void*) { return std::calloc(count, bytes); }

void* SessionMemory::change(void* at, size_t bytes, void* self) {
  auto& memory = *static_cast<SessionMemory*>(self);
  if (at == nullptr) return allocate(bytes, self);
  Block* old = memory.find(at);
  if (old == nullptr) return std::realloc(at, bytes);
  if (bytes >= kMappedFrom) {
    void* moved = mremap(at, old->bytes, bytes, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) return nullptr;
    *old = {moved, bytes};
    return moved;
  }
  void* now = allocate(bytes, self);
  if (now == nullptr) return nullptr;
  std::memcpy(now, at, std::min(bytes, old->bytes));
  release(at, self);
  return now;
}

void SessionMemory::release(void* at, void* self) {
  Block* block = static_cast<SessionMemory*>(self)->find(at);
  if (block == nullptr) return std::free(at);
  munmap(block->at, block->bytes);
  *block = {};
}

}  // namespace zt::hbone
