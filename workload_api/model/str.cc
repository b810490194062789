#include "workload_api/model/str.h"

#include <cstring>
#include <new>
#include <stdexcept>

namespace zt::workload_api {

const Str::Block* Str::allocate(std::string_view text) {
  // xDS messages are limited to 200 MiB, so a longer text cannot come from outside.
  if (text.size() > UINT32_MAX) throw std::length_error("Str");
  void* memory = ::operator new(sizeof(Block) + text.size());
  auto* block = new (memory) Block{1, static_cast<uint32_t>(text.size())};
  std::memcpy(block + 1, text.data(), text.size());
  return block;
}

void Str::deallocate(const Block* block) noexcept {
  const size_t bytes = sizeof(Block) + block->size;
  block->~Block();
  ::operator delete(const_cast<Block*>(block), bytes);
}

}  // namespace zt::workload_api
