#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "hbone/tls/aead.h"
#include "hbone/tls/key_schedule.h"
#include "mesh/reason.h"

// TLS 1.3 record protection after the handshake (RFC 8446 §5), one object per direction, without I/O. Records
// are sealed and opened where they lie. The state of both is plain data that another process can go on with.
namespace zt::hbone {

inline constexpr size_t kRecordHeader = 5;                                 // type, version, length
inline constexpr size_t kRecordTrailer = 1 + kAeadTagBytes;                // inner content type, tag
inline constexpr size_t kRecordOverhead = kRecordHeader + kRecordTrailer;  // 22
inline constexpr size_t kMaxPlaintext = 16384;                             // content of one record (RFC 8446 §5.1)
inline constexpr size_t kMaxCiphertext = kMaxPlaintext + 256;              // what a header may announce (RFC 8446 §5.2)
inline constexpr size_t kMaxRecord = kRecordHeader + kMaxCiphertext;       // a receive buffer must hold this much
inline constexpr size_t kKeyUpdateRecord = 5 + kRecordOverhead;            // size of a sealed KeyUpdate
inline constexpr size_t kAlertRecord = 2 + kRecordOverhead;                // size of a sealed alert

// AES-GCM keeps its margin for 2^24.5 full-size records per key (RFC 8446 §5.5). We ask for a new key at 2^24
// and refuse to seal beyond the limit.
inline constexpr uint64_t kKeyUpdateAfterRecords = uint64_t{1} << 24;
inline constexpr uint64_t kMaxRecordsPerKey = 23'726'566;

// What a peer may send without a byte of application data in between, before it counts as an attack.
inline constexpr uint32_t kMaxEmptyRecords = 32;  // application data records without content
inline constexpr uint32_t kMaxKeyUpdates = 32;
inline constexpr uint32_t kMaxWarningAlerts = 4;         // user_canceled
inline constexpr uint32_t kMaxTicketBytes = 256 * 1024;  // NewSessionTicket messages, which we skip

enum class ContentType : uint8_t { kChangeCipherSpec = 20, kAlert = 21, kHandshake = 22, kApplicationData = 23 };

// RFC 8446 §6.
enum class Alert : uint8_t {
  kCloseNotify = 0,
  kUnexpectedMessage = 10,
  kBadRecordMac = 20,
  kRecordOverflow = 22,
  kHandshakeFailure = 40,
  kBadCertificate = 42,
  kUnsupportedCertificate = 43,
  kCertificateRevoked = 44,
  kCertificateExpired = 45,
  kCertificateUnknown = 46,
  kIllegalParameter = 47,
  kUnknownCa = 48,
  kAccessDenied = 49,
  kDecodeError = 50,
  kDecryptError = 51,
  kProtocolVersion = 70,
  kInsufficientSecurity = 71,
  kInternalError = 80,
  kInappropriateFallback = 86,
  kUserCanceled = 90,
  kMissingExtension = 109,
  kUnsupportedExtension = 110,
  kUnrecognizedName = 112,
  kBadCertificateStatusResponse = 113,
  kUnknownPskIdentity = 115,
  kCertificateRequired = 116,
  kNoApplicationProtocol = 120,
};
[[nodiscard]] std::string_view alert_name(Alert alert);  // "bad_record_mac"; "unknown" for values without a name

// One direction, as plain data: hot restart sends it to the next process over a Unix socket. Holds a secret:
// never log it; the copy wipes itself. Both ends of the hand-over are the same release or a later one, which
// is the format's owner's matter.
struct RecordState {
  CipherSuite suite = CipherSuite::kAes128GcmSha256;
  TrafficSecret secret;   // of the current generation
  uint64_t sequence = 0;  // of the next record; also the number of records done with this key
  bool closed = false;    // close_notify (sealer: or a fatal alert) was the last record

  // Opener only.
  bool from_server = false;                   // who sends: only a server may send tickets
  bool key_update_due = false;                // the peer asked for our KeyUpdate and has not got it
  bool key_update_asked = false;              // we asked for the peer's and have not got it
  std::array<uint8_t, 4> handshake_header{};  // of a message that is not complete yet …
  uint8_t handshake_header_size = 0;          // … and how much of it is there
  uint32_t handshake_left = 0;                // bytes of that message that are still to come
  // Since the last application data:
  uint32_t empty_records = 0;
  uint32_t key_updates = 0;
  uint32_t warning_alerts = 0;
  uint32_t ticket_bytes = 0;
};

// Seals what we send. Thread: the owner's; movable.
class RecordSealer {
 public:
  // Errors: kInternal (no key could be made), kInvalidInput (state that cannot be: secret of the wrong
  // length).
  static Result<RecordSealer> make(const RecordState& state);

  // `record` points to kRecordHeader free bytes, then `content_length` bytes of content, then kRecordTrailer
  // free bytes. Writes header and trailer, encrypts in place, returns the record's length (content_length +
  // kRecordOverhead). Errors (kInternal): content longer than kMaxPlaintext, kMaxRecordsPerKey reached,
  // sealing after close_notify. None of these has touched the buffer in a way that may be sent.
  Result<size_t> seal_in_place(uint8_t* record, size_t content_length, ContentType type);
  // As above with `padding` zero bytes after the inner content type (RFC 8446 §5.4): kRecordTrailer + padding
  // bytes must be free after the content, and content_length + padding must be at most kMaxPlaintext.
  Result<size_t> seal_padded_in_place(uint8_t* record, size_t content_length, size_t padding, ContentType type);

  // Seals a KeyUpdate under the current key and goes on with the next one (RFC 8446 §4.6.3). Whoever calls
  // must send these bytes before anything that is sealed later.
  Result<size_t> seal_key_update(std::span<uint8_t, kKeyUpdateRecord> record, bool request_peer);
  // After close_notify nothing can be sealed any more; a fatal alert ends the connection likewise.
  Result<size_t> seal_alert(std::span<uint8_t, kAlertRecord> record, Alert alert);
  Result<size_t> seal_close_notify(std::span<uint8_t, kAlertRecord> record) { return seal_alert(record, Alert::kCloseNotify); }

  // True when it is time for seal_key_update(): one comparison, meant to be asked once per batch.
  [[nodiscard]] bool needs_key_update() const { return sequence_ >= kKeyUpdateAfterRecords; }
  [[nodiscard]] CipherSuite suite() const { return suite_; }
  [[nodiscard]] RecordState export_state() const;
  [[nodiscard]] size_t heap_bytes() const { return key_->heap_bytes(); }

 private:
  RecordSealer() = default;

  std::unique_ptr<AeadKey> key_;
  uint64_t sequence_ = 0;
  TrafficSecret secret_;
  WipedBytes<kAeadNonceBytes> iv_;
  CipherSuite suite_{};
  bool closed_ = false;
};

// What was found at the head of the receive buffer.
struct OpenedRecord {
  enum class Kind : uint8_t {
    kIncomplete,  // no whole record yet: read until `needed` bytes are there
    kData,        // application data, may be empty
    kControl,     // something the record layer has dealt with itself; ask key_update_due() before the next write
    kClosed,      // close_notify: the peer sends no more, whatever follows is ignored (RFC 8446 §6.1)
  };
  Kind kind = Kind::kIncomplete;
  size_t consumed = 0;      // bytes of the buffer that are done with
  size_t needed = 0;        // kIncomplete: bytes from the buffer's head to the end of the record as far as known
  std::span<uint8_t> data;  // kData: plaintext, inside the buffer
};

// Opens what the peer sends. Thread: the owner's; movable.
class RecordOpener {
 public:
  static Result<RecordOpener> make(const RecordState& state);  // errors as RecordSealer::make

  // Looks at one record at the head of `received` and opens it in place. Call it in a loop:
  //   for (;;) {
  //     auto opened = opener.open(rest);
  //     if (!opened) → send alert_to_send() if there is one, close, report the error
  //     if (opened->kind == kIncomplete || opened->kind == kClosed) break;
  //     use(opened->data);  rest = rest.subspan(opened->consumed);
  //   }
  // An error is final: every later call repeats it. Errors are of Reason::kTlsFailed and name what was wrong.
  Result<OpenedRecord> open(std::span<uint8_t> received);

  // The peer asked for a KeyUpdate from us: answer with RecordSealer::seal_key_update(…, false) before the
  // next application data, then call key_update_answered(). Several requests before that need one answer (RFC
  // 8446 §4.6.3).
  [[nodiscard]] bool key_update_due() const { return state_.key_update_due; }
  void key_update_answered() { state_.key_update_due = false; }
  // The peer has used its key for so long that we should ask it for a new one: seal_key_update(…, true),
  // once.
  [[nodiscard]] bool should_request_key_update() const {
    return state_.sequence >= kKeyUpdateAfterRecords && !state_.key_update_asked;
  }
  void key_update_requested() { state_.key_update_asked = true; }

  // At end of file: true if close_notify came first, false if the stream was cut (RFC 8446 §6.1, truncation).
  [[nodiscard]] bool finished_cleanly() const { return state_.closed; }
  // After an error: what to tell the peer; nothing if it was the peer who sent a fatal alert.
  [[nodiscard]] std::optional<Alert> alert_to_send() const { return alert_; }

  [[nodiscard]] CipherSuite suite() const { return state_.suite; }
  [[nodiscard]] RecordState export_state() const { return state_; }
  [[nodiscard]] size_t heap_bytes() const { return key_->heap_bytes(); }

 private:
  RecordOpener() = default;
  Result<OpenedRecord> on_content(uint8_t type, std::span<uint8_t> content, OpenedRecord opened);
  Result<OpenedRecord> on_alert(std::span<const uint8_t> content, OpenedRecord opened);
  Result<OpenedRecord> on_handshake(std::span<const uint8_t> content, OpenedRecord opened);
  Result<> on_message_start();
  Result<> on_key_update(uint8_t request);
  std::unexpected<Error> refuse(std::optional<Alert> alert, std::string text);
  std::unexpected<Error> refuse_type(uint8_t type);

  std::unique_ptr<AeadKey> key_;
  RecordState state_;
  WipedBytes<kAeadNonceBytes> iv_;
  std::optional<Alert> alert_;
  std::unique_ptr<Error> error_;  // set once, final
};

}  // namespace zt::hbone
