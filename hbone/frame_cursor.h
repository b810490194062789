#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace zt::hbone {

inline constexpr size_t kFrameHeader = 9;  // RFC 9113 §4.1
// A frame or header block larger than this, or than what we say that we accept of headers, is given to the session as it comes. No block of
// a header list that we accept is (RFC 7541: a field takes less than its name, its value and 32 bytes).
inline constexpr size_t kMaxHeldFrames = 64 * 1024;

// What went through a cursor, for whoever judges a peer by it.
struct FrameTally {
  uint32_t useful = 0;    // DATA with bytes
  uint64_t bytes = 0;     // of these
  uint32_t opening = 0;   // HEADERS
  uint32_t overhead = 0;  // everything else but the end of a stream
};

// Stands before the HTTP/2 session and gives it pieces that end where its state is plain: the payload of DATA as it comes, any
// other frame when it is whole, and HEADERS together with its CONTINUATIONs. So between two pieces the session is never inside a
// header block, and what there is of its position in the byte stream is here. One thread, no I/O.
class FrameCursor {
 public:
  // `preface`: bytes of the client's preface that come first (server role). `max_frame`: a payload that the session will refuse
  // at once is not waited for. `max_held`: see kMaxHeldFrames.
  FrameCursor(size_t preface, size_t max_frame, size_t max_held = kMaxHeldFrames)
      : preface_left_(preface), max_frame_(max_frame), max_held_(max_held) {}

  // Where it is between two turns.
  struct State {
    std::vector<uint8_t> held;
    uint32_t data_left = 0;  // of the DATA frame that the session is in …
    int32_t data_stream = 0;
    uint8_t data_flags = 0;
    int32_t largest_stream = 0;  // of the HEADERS that the session has been given
  };
  // At an edge: at_edge().
  [[nodiscard]] State export_state() const;
  FrameCursor(State state, size_t max_frame, size_t max_held = kMaxHeldFrames);

  // The next piece for the session, in `data` or in what is held; empty when all of `data` has been taken in. Takes what it
  // uses off the front of `data`; a piece is valid until the next call.
  [[nodiscard]] std::span<const uint8_t> next(std::span<const uint8_t>& data, FrameTally& tally);

  // Bytes of frames that are not whole yet.
  [[nodiscard]] size_t held() const { return held_.size(); }
  // The session stands at a frame's edge or inside DATA of which we know how much is left.
  [[nodiscard]] bool at_edge() const { return preface_left_ == 0 && pass_left_ == 0 && !in_long_block_; }
  [[nodiscard]] size_t data_left() const { return data_left_; }
  [[nodiscard]] bool inside_preface() const { return preface_left_ > 0; }
  // Inside a DATA frame that has padding.
  [[nodiscard]] bool inside_padding() const;

 private:
  struct Head {
    size_t length;
    uint8_t type;
    uint8_t flags;
    int32_t stream;
  };
  static Head parse(const uint8_t* bytes);
  static void count(const Head& head, FrameTally& tally);
  // How much of `unit` has to be there before more can be said: beyond what is there = not whole yet, else the frame's or the
  // block's size. 0: too long to be waited for. `scan`: how far a header block has been looked through; 0 at first.
  [[nodiscard]] size_t unit_size(std::span<const uint8_t> unit, size_t& scan) const;
  // How much of `data` the session may have now.
  size_t run(std::span<const uint8_t> data, FrameTally& tally);

  std::vector<uint8_t> held_;   // the beginning of a frame or header block
  size_t held_scan_ = 0;        // see unit_size()
  size_t given_ = 0;            // of held_, by the last call
  bool in_long_block_ = false;  // inside a header block that was too long to hold
  size_t preface_left_;
  size_t max_frame_;
  size_t max_held_;
  size_t data_left_ = 0;  // of the DATA frame that the session is in
  size_t pass_left_ = 0;  // of another frame that was too long to hold
  // Nothing here needs these; whoever goes on in the middle does.
  int32_t data_stream_ = 0;
  int32_t largest_stream_ = 0;
  uint8_t data_flags_ = 0;
};

}  // namespace zt::hbone
