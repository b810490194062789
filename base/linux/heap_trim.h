#pragma once
#include <cstddef>

namespace zt {

// When to ask the C library to give back what it holds and nobody uses: after a burst, once it is over. glibc keeps freed memory below
// whatever is in use on top of it, for ever; asking it (malloc_trim) walks and locks its arenas, so it is not done while things move.
//
// Measured against jemalloc 5.3 (background thread, decay of 1 s) and mimalloc 2.0 with 2,500 handshakes that were begun and given
// up: fresh 23.4, 24.6 and 24.1 MB; after the burst 24.5, 28.8 and 153.8 (glibc unasked: 143.6); CPU 1.12, 1.20 and 1.46 s. One call
// takes 2 to 4 ms there, on a thread that nobody waits for.
class HeapTrim {
 public:
  // Call about once a second. `resident`: bytes of the process in memory. `load`: how much there is to hold for, in any unit that falls
  // when it ends (connections, tunnels, handshakes). True: trim now.
  [[nodiscard]] bool due(size_t resident, size_t load);
  // What is resident after that.
  void trimmed(size_t resident) { resident_then_ = resident_before_ = resident; }

 private:
  size_t resident_then_ = 0;    // after the last trim
  size_t resident_before_ = 0;  // at the last call
  size_t peak_ = 0;             // of the load since the last trim
  int calm_ = 0;                // calls in a row in which nothing grew
};

// Of this process, of /proc/self/statm; 0 if it cannot be read.
[[nodiscard]] size_t resident_bytes();

}  // namespace zt
