#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "hbone/receive_turn.h"
#include "hbone/tls/record_layer.h"
#include "hbone/transport.h"
#include "hbone/tunnel_state.h"
#include "hbone/worker_io.h"

namespace zt::hbone {

// Who uses a RecordLink.
class RecordLinkUser {
 public:
  // What is held for the peer is needed by others, or it has taken nothing for too long. The link must be closed before this returns.
  virtual void on_link_lost(Reason reason, std::string text) noexcept = 0;

 protected:
  ~RecordLinkUser() = default;
};

// TLS 1.3 records over a transport, both ways, in buffers that the worker lends: what is received is opened in place, what is sent
// is sealed in place, one read and one write a batch. Between turns it holds the beginning of a record that has not come whole, and
// what the transport has not taken; both in memory of their own size, charged to the account. Knows nothing of HTTP/2.
class RecordLink {
 public:
  // `early`: records that came with the handshake's last flight. `send_timeout`: how long the transport may take nothing of what
  // there is to send. `broken_off`: what it is called when the other side resets the transport.
  RecordLink(WorkerIo& io, MemoryBudget& account, std::unique_ptr<Transport> transport, RecordSealer sealer, RecordOpener opener,
             std::vector<uint8_t> early, std::chrono::milliseconds send_timeout, Reason broken_off, RecordLinkUser& user);
  RecordLink(const RecordLink&) = delete;

  Result<> attach(TransportUser& user) { return transport_->attach(user); }
  // Gives all back and closes the transport. In a batch, the buffer stays until close_batch().
  void close();
  [[nodiscard]] int socket() const { return transport_ != nullptr ? transport_->socket() : -1; }

  // --- Receiving
  enum class Input : uint8_t { kNothing, kRecords, kEnded };
  // One read, behind what has been left of the last turn. Errors (kPeerLost, broken_off): the transport failed.
  Result<Input> read(ReceiveTurn& turn);
  // The content of the next record, which may be empty; nothing when no whole one is left. Errors (kTlsFailed): alert() tells the peer.
  Result<std::optional<std::span<const uint8_t>>> open(ReceiveTurn& turn);
  void alert();
  // At the end of the turn: what has not been opened stays for the next one. `more`: bytes of this peer that are held elsewhere, charged with
  // these. False: memory is short.
  [[nodiscard]] bool keep_rest(ReceiveTurn& turn, size_t more);
  // There is something to read that no edge will tell of.
  [[nodiscard]] bool take_read_again() { return std::exchange(read_again_, false); }
  [[nodiscard]] bool read_again() const { return read_again_; }
  void set_ending() { ending_ = true; }
  // After kEnded: the peer said so before (close_notify).
  [[nodiscard]] bool ended_cleanly() const { return opener_.finished_cleanly(); }

  // --- Sending: a batch of records in a lent buffer
  // The transport takes nothing now. No batch may be begun.
  [[nodiscard]] bool blocked() const { return blocked_; }
  [[nodiscard]] bool in_batch() const { return in_batch_; }
  void open_batch();
  void close_batch();  // what it has not flushed is dropped
  [[nodiscard]] size_t batched() const { return out_end_; }
  // Where the next record goes: kRecordSlotBytes at least, while batched() is below kBatchBytes.
  [[nodiscard]] uint8_t* next_record() { return out_.data() + out_end_; }
  // Seals content that lies in its place already.
  Result<> seal(size_t content);
  // Content of a control record that seal_control() ends. Returns how much of it had room in this batch.
  size_t append_control(std::span<const uint8_t> bytes);
  Result<> seal_control();
  Result<> seal_close_notify();
  // Ours if one is due, in its place before what is sealed next.
  Result<> seal_key_update();
  [[nodiscard]] bool key_update_due() const { return opener_.key_update_due() || opener_.should_request_key_update(); }
  // One write. False: the transport did not take all of it (blocked() now), or failed (user told).
  bool flush();
  // The transport takes bytes again. True: all that was left has gone.
  bool on_writable();
  // Bytes of this peer that are held elsewhere; charged with what is held here. False: memory is short.
  [[nodiscard]] bool charge(size_t more);

  // --- Hand-over (record_link_handover.cc), between batches
  // Seals content behind all that the transport has not taken yet, and gives it what it takes. False: lost (user told).
  bool seal_behind(std::span<const uint8_t> content);
  // From here on the transport is left alone and nothing is sealed.
  void freeze();
  // Keys, sequence numbers, and the bytes between the two sides and the transport.
  void export_to(TunnelState& state) const;
  // Before thaw(), in a link that was made with the state's keys and `partial` as early records.
  void resume(const TunnelState& state);
  Result<> thaw(TransportUser& user);

 private:
  static constexpr std::chrono::milliseconds kSettleAfter{20};
  // As many blocked links keep their buffers for that long; beyond, each copies its rest at once.
  static constexpr size_t kLentToBlocked = 4;

  struct Held final : MemoryBudget::Claim {
    Held(RecordLink& owner, MemoryBudget& budget) : Claim(budget), link(owner) {}
    void revoke() noexcept override { link.user_.on_link_lost(Reason::kResourceLimit, "memory is needed by others"); }
    using Claim::release;
    RecordLink& link;
  };

  [[nodiscard]] Reason lost(int error) const;
  bool write(const uint8_t* data, size_t& begin, size_t end);
  void settle();
  void keep_unsent();
  void on_blocked_timer();

  WorkerIo& io_;
  MemoryBudget& account_;
  RecordLinkUser& user_;
  std::unique_ptr<Transport> transport_;
  RecordSealer sealer_;
  RecordOpener opener_;
  Held held_;
  size_t held_elsewhere_ = 0;

  std::vector<uint8_t> partial_;  // the start of a record; empty and without memory when idle
  bool early_ = false;            // partial_ may hold whole records
  bool read_again_ = false;
  bool ending_ = false;  // the transport's end is known to follow

  bool blocked_ = false;
  bool in_batch_ = false;
  BufferPool::Lease out_;  // [out_begin_, out_end_) is sealed
  size_t out_begin_ = 0;
  size_t out_end_ = 0;
  size_t control_bytes_ = 0;     // content of the control record being built at out_end_
  std::vector<uint8_t> unsent_;  // of a batch whose buffer was given back
  size_t unsent_begin_ = 0;
  Timer blocked_timer_;
  Clock::time_point last_taken_{};
  std::chrono::milliseconds send_timeout_;
  Reason broken_off_;
};

}  // namespace zt::hbone
