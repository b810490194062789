#pragma once
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer_pool.h"
#include "base/event_loop.h"
#include "base/memory_account.h"

namespace zt::hbone {

using MemoryBudget = MemoryAccount;

// TLS record content, slot by slot: a record is 5 bytes of header, at most 16384 of content, 1 of type and 16 of tag.
inline constexpr size_t kRecordSlotBytes = 5 + 16384 + 1 + 16;
// A worker's buffer: one batch of 64 full records and room for the control records before them. Batches of 1 MiB instead of
// 256 KiB save 15 % of CPU per GB; they are possible because buffers belong to the worker.
inline constexpr size_t kBatchRecords = 64;
inline constexpr size_t kWorkerBufferBytes = (kBatchRecords + 4) * kRecordSlotBytes;
inline constexpr size_t kSpareWorkerBuffers = 4;

// What a worker lends to its tunnels and relays. Owned by the worker, one thread, outlives all of them.
struct WorkerIo {
  WorkerIo(EventLoop& event_loop, MemoryLimit& memory)
      : loop(event_loop),
        buffers(event_loop, kWorkerBufferBytes, kSpareWorkerBuffers),
        budget(memory, [this] { loop.post([this] { budget.relieve(); }); }) {}

  EventLoop& loop;
  BufferPool buffers;
  MemoryAccount budget;                                        // what others make this worker hold
  std::atomic<uint32_t> client_tunnels{0}, server_tunnels{0};  // open now, for whoever reports it

  // A slice of received DATA; those of a stream are linked.
  struct Slice {
    iovec data;
    uint32_t next;
  };
  // Memory of turns that are over, for the next ones: who uses it takes it, and gives it back.
  std::vector<Slice> spare_slices;
  std::vector<iovec> spare_parts;
  uint64_t receive_turns = 0;  // begun; so that no two have the same number
};

}  // namespace zt::hbone
