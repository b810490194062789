#include "hbone/session_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

using zt::hbone::SessionMemory;

namespace {
size_t resident(void* at, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((bytes + page - 1) / page);
  REQUIRE(mincore(at, bytes, pages.data()) == 0);
  size_t found = 0;
  for (const unsigned char state : pages) found += (state & 1u) != 0 ? page : 0;
  return found;
}
}  // namespace

TEST_CASE("a frame buffer that is never written to costs an HTTP/2 session no memory, and goes back") {
  SessionMemory memory;
  const nghttp2_mem mem = memory.allocator();
  void* small = mem.malloc(100, mem.mem_user_data);
  CHECK(memory.mapped() == 0);
  // Dirty pages in the heap, of the size that comes next.
  void* dirty = std::malloc(1 << 20);
  std::memset(dirty, 1, 1 << 20);
  std::free(dirty);
  void* large = mem.realloc(nullptr, 1 << 20, mem.mem_user_data);
  CHECK(memory.mapped() == 1 << 20);
  CHECK(resident(large, 1 << 20) == 0);
  std::memcpy(large, "abc", 4);
  large = mem.realloc(large, 2 << 20, mem.mem_user_data);
  CHECK(std::strcmp(static_cast<char*>(large), "abc") == 0);
  CHECK(memory.mapped() == 2 << 20);
  CHECK(resident(large, 2 << 20) < 64 * 1024);
  large = mem.realloc(large, 100, mem.mem_user_data);
  CHECK(std::strcmp(static_cast<char*>(large), "abc") == 0);
  CHECK(memory.mapped() == 0);
  mem.free(large, mem.mem_user_data);
  mem.free(small, mem.mem_user_data);
}

TEST_CASE("what an HTTP/2 session allocates beyond its mapped blocks comes from the heap") {
  SessionMemory memory;
  const nghttp2_mem mem = memory.allocator();
  std::vector<void*> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(mem.malloc(100'000, mem.mem_user_data));
  CHECK(memory.mapped() == 200'000);
  for (void* block : blocks) {
    std::memset(block, 1, 100'000);
    mem.free(block, mem.mem_user_data);
  }
  mem.free(nullptr, mem.mem_user_data);
  CHECK(memory.mapped() == 0);
}
