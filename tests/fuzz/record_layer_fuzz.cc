// What a peer that knows the key can send after the handshake, and what one that does not can. The input is a
// script: each piece has one byte of kind and two of length, then its bytes, which are sealed as a record of
// that type (or padded, or a key update of ours) or put on the wire raw. The opener must end in data that was
// sent, in an order that it was sent in, or in one final error; its state must survive a hand-over at any
// point.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "hbone/tls/record_layer.h"

using namespace zt::hbone;

namespace {

using Bytes = std::vector<uint8_t>;

void require(bool holds) {
  if (!holds) std::abort();
}

RecordState start(bool from_server) {
  RecordState state;
  state.from_server = from_server;
  state.secret = TrafficSecret(Bytes(32, 7));
  return state;
}

// Writes the records of a script and remembers what application data it holds up to the first raw byte.
class Writer {
 public:
  explicit Writer(bool from_server) : sealer_(std::move(*RecordSealer::make(start(from_server)))) {}

  void piece(uint8_t kind, std::span<const uint8_t> bytes) {
    switch (kind % 8) {
      case 0:
      case 1: return seal(ContentType::kApplicationData, bytes, kind % 8 == 1 ? kind : 0u);
      case 2: return seal(ContentType::kHandshake, bytes, kind & 0x80u);
      case 3: return seal(ContentType::kAlert, bytes, 0);
      case 4:
        // Not type 0: that would be padding, and the content's own last byte the type.
        return seal(static_cast<ContentType>(kind >> 3 == 0 ? 1 : kind >> 3), bytes, 0);
      case 5: {
        wire.resize(wire.size() + kKeyUpdateRecord);
        const auto record = std::span(wire).last<kKeyUpdateRecord>();
        if (!sealer_.seal_key_update(record, (kind & 0x80) != 0)) wire.resize(wire.size() - kKeyUpdateRecord);
        return;
      }
      case 6: {
        wire.resize(wire.size() + kAlertRecord);
        if (!sealer_.seal_alert(std::span(wire).last<kAlertRecord>(), static_cast<Alert>(bytes.empty() ? 0 : bytes[0])))
          wire.resize(wire.size() - kAlertRecord);
        return;
      }
      default: wire.insert(wire.end(), bytes.begin(), bytes.end());
    }
  }

  Bytes wire, data;

 private:
  void seal(ContentType type, std::span<const uint8_t> bytes, size_t padding) {
    const size_t at = wire.size();
    wire.resize(at + bytes.size() + padding + kRecordOverhead);
    std::copy(bytes.begin(), bytes.end(), wire.begin() + static_cast<ptrdiff_t>(at + kRecordHeader));
    const auto sealed = sealer_.seal_padded_in_place(wire.data() + at, bytes.size(), padding, type);
    if (!sealed) return wire.resize(at);
    require(*sealed == wire.size() - at);
    if (type == ContentType::kApplicationData) data.insert(data.end(), bytes.begin(), bytes.end());
  }

  RecordSealer sealer_;
};

// Reads as the tunnel does, `piece` bytes at a time, handing the opener over now and then.
void read_back(const Writer& writer, bool from_server, size_t piece) {
  RecordOpener opener = std::move(*RecordOpener::make(start(from_server)));
  Bytes buffer, data;
  size_t fed = 0;
  for (size_t turn = 0;; ++turn) {
    const auto opened = opener.open(buffer);
    if (!opened) {
      require(!opener.open(buffer).has_value());  // final
      break;
    }
    require(opened->consumed <= buffer.size());
    if (opened->kind == OpenedRecord::Kind::kClosed) {
      require(opener.finished_cleanly());
      break;
    }
    if (opened->kind == OpenedRecord::Kind::kIncomplete) {
      require(opened->consumed == 0 && opened->needed > buffer.size() && opened->needed <= kMaxRecord);
      if (fed == writer.wire.size()) break;
      const size_t take = std::min(piece, writer.wire.size() - fed);
      const auto begin = writer.wire.begin() + static_cast<ptrdiff_t>(fed);
      buffer.insert(buffer.end(), begin, begin + static_cast<ptrdiff_t>(take));
      fed += take;
      continue;
    }
    require(opened->consumed >= kRecordOverhead);
    require(opened->data.size() <= kMaxPlaintext);
    data.insert(data.end(), opened->data.begin(), opened->data.end());
    buffer.erase(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(opened->consumed));
    if (turn % 3 == 0) opener = std::move(*RecordOpener::make(opener.export_state()));
  }
  require(data.size() <= writer.data.size() && std::equal(data.begin(), data.end(), writer.data.begin()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size < 2) return 0;
  const bool from_server = (bytes[0] & 1) != 0;
  const size_t piece = size_t{1} + bytes[1] * 97u;
  std::span<const uint8_t> script(bytes + 2, size - 2);
  Writer writer(from_server);
  while (script.size() >= 3) {
    const uint8_t kind = script[0];
    const size_t length = std::min<size_t>((size_t{script[1]} << 8 | script[2]) % (kMaxPlaintext + 1), script.size() - 3);
    writer.piece(kind, script.subspan(3, length));
    script = script.subspan(3 + length);
  }
  read_back(writer, from_server, piece);
  return 0;
}
