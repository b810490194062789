#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

// What carries a tunnel's records: a TCP socket, or a stream of another tunnel (double HBONE), or whatever a test likes.
namespace zt::hbone {

// Whoever reads and writes a transport. Told on edges, as by EventLoop: what could not be done before may be possible now.
class TransportUser {
 public:
  struct Ready {
    bool readable = false;
    bool writable = false;
    bool ending = false;  // the end, or an error, is known to be behind what can be read: no other edge will tell of it
  };
  virtual void on_transport(Ready ready) noexcept = 0;

 protected:
  ~TransportUser() = default;
};

// What one read or write did.
struct Transfer {
  enum class State : uint8_t {
    kDone,     // `bytes` were moved. Read: fewer than there was room for = nothing more now
    kBlocked,  // nothing now; the user will be told
    kEnded,    // read: the other side sends no more
    kFailed,   // `error` is an errno; the transport is of no use any more
  };
  State state = State::kBlocked;
  size_t bytes = 0;
  int error = 0;
  bool ending = false;  // read: the end is behind these bytes, and no edge will tell of it
};

// A byte stream both ways, without blocking. One virtual call moves a whole batch. Owned by its tunnel; destroying it closes it and
// drops what it has not sent. One thread.
class Transport {
 public:
  virtual ~Transport() = default;
  // From here on `user` is told, never from inside read() or write().
  virtual Result<> attach(TransportUser& user) = 0;
  // Tells nobody any more; it may be attached again, and what is possible by then is told as an edge.
  virtual void detach() = 0;
  virtual Transfer read(std::span<uint8_t> room) = 0;
  virtual Transfer write(std::span<const uint8_t> bytes) = 0;
  // The TCP socket, for what the kernel knows of the path; -1 if there is none.
  [[nodiscard]] virtual int socket() const { return -1; }
};

}  // namespace zt::hbone
