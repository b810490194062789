#pragma once
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "handover/wire.h"

namespace zt::handover {

// In order of their numbers on the wire.
enum class Message : uint32_t {
  kHello = 1,   // both: who it is (protocol.h)
  kUnit = 2,    // from the one who leaves, with descriptors
  kReady = 3,   // from the one who comes: it could run the unit
  kRefuse = 4,  // from the one who comes: it cannot, and why
  kCommit = 5,  // from the one who leaves: run it
  kAbort = 6,   // from the one who leaves: forget it
  kBye = 7,     // both: nothing more
};

struct Received {
  Message message;
  SecretBytes bytes;
  std::vector<UniqueFd> descriptors;
  // The kernel has dropped some of them on the way in (a security module, RLIMIT_NOFILE).
  bool descriptors_lost = false;
};

// Messages with descriptors over a connected AF_UNIX stream: {u32 message, u32 bytes, u32 descriptors}, then the bytes. Never blocks.
// Owned by either side of a hand-over, which destroys it when it is over; one thread.
class Channel final : private Watcher {
 public:
  class User {
   public:
    // Both may destroy the channel.
    virtual void on_message(Received message) noexcept = 0;
    // Nothing comes any more and nothing can be sent, and `why`. `other_closed`: the other side's end is closed, by itself or because its
    // process is gone; else we have closed, because it broke the rules.
    virtual void on_end(const Error& why, bool other_closed) noexcept = 0;

   protected:
    ~User() = default;
  };

  // `most`: bytes of a message.
  Channel(EventLoop& loop, UniqueFd socket, size_t most, User& user);
  ~Channel();
  Channel(const Channel&) = delete;
  // Told of messages from here on, never from inside of it.
  Result<> start();

  // Sends as the socket takes it. The descriptors stay the caller's, open until sent() or the channel's end.
  void send(Message message, SecretBytes bytes, std::vector<int> descriptors);
  // All that was given to send() is the kernel's now: the other side will get it, whatever becomes of us.
  [[nodiscard]] bool sent() const { return out_.empty() && fd_; }
  enum class Said : uint8_t {
    kYes,          // it is the kernel's
    kOtherClosed,  // nobody will ever read it
    kNo,           // it cannot be said now, or not whole
  };
  // A message without descriptors, at once.
  [[nodiscard]] Said say(Message message, std::span<const uint8_t> bytes = {});
  void close();
  // Closes so that the other side cannot say anything from here on, and tells whether it had said `message` before.
  [[nodiscard]] bool close_and_ask_for(Message message);

 private:
  // SCM_MAX_FD of Linux is 253.
  static constexpr size_t kDescriptorsAtOnce = 200;
  struct Outgoing {
    SecretBytes bytes;
    size_t begin = 0;
    std::vector<int> descriptors;
    size_t given = 0;
  };

  void on_ready(uint32_t events) noexcept override;
  void flush();
  bool write_some(Outgoing& out);
  void read_all();
  bool read_some();
  ssize_t receive();
  bool deliver_one();
  void end(Reason reason, std::string text, bool other_closed);

  EventLoop& loop_;
  UniqueFd fd_;
  const size_t most_;
  User& user_;
  bool watched_ = false;
  Timer retry_timer_;  // while too many descriptors are on their way
  std::deque<Outgoing> out_;
  SecretBytes in_;
  std::deque<UniqueFd> in_descriptors_;
  bool in_lost_ = false;
  bool* gone_ = nullptr;  // set while the user is told
};

}  // namespace zt::handover
