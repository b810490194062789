#include "hbone/tls/record_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "mesh/reason.h"

namespace zt::hbone {
namespace {

// Handshake messages that may come after the handshake (RFC 8446 §4.6).
constexpr uint8_t kNewSessionTicket = 4;
constexpr uint8_t kKeyUpdate = 24;
constexpr uint8_t kFatal = 2;
constexpr uint8_t kWarning = 1;

Result<> check_state(const RecordState& state) {
  if (state.suite != CipherSuite::kAes128GcmSha256 && state.suite != CipherSuite::kAes256GcmSha384)
    return fail(Reason::kInvalidInput,
                fmt::format("record state has unknown cipher suite 0x{:04x}", static_cast<unsigned>(state.suite)));
  if (state.secret.bytes().size() != suite_hash_bytes(state.suite))
    return fail(Reason::kInvalidInput, fmt::format("record state of {} has a secret of {} bytes", cipher_suite_name(state.suite),
                                                   state.secret.bytes().size()));
  if (state.handshake_header_size > state.handshake_header.size())
    return fail(Reason::kInvalidInput,
                fmt::format("record state has {} bytes of a handshake message's header", state.handshake_header_size));
  return {};
}

// The IV with the sequence number added to its end (RFC 8446 §5.3).
std::array<uint8_t, kAeadNonceBytes> nonce_of(const std::array<uint8_t, kAeadNonceBytes>& iv, uint64_t sequence) {
  std::array<uint8_t, kAeadNonceBytes> nonce = iv;
  uint64_t tail;
  std::memcpy(&tail, nonce.data() + 4, sizeof tail);
  tail ^= __builtin_bswap64(sequence);
  std::memcpy(nonce.data() + 4, &tail, sizeof tail);
  return nonce;
}
static_assert(std::endian::native == std::endian::little, "nonce_of swaps bytes");

std::span<const uint8_t, kAeadNonceBytes> view(const std::array<uint8_t, kAeadNonceBytes>& nonce) { return nonce; }

}  // namespace

// clang-format off
std::string_view alert_name(Alert alert) {
  switch (alert) {
    case Alert::kCloseNotify: return "close_notify";
    case Alert::kUnexpectedMessage: return "unexpected_message";
    case Alert::kBadRecordMac: return "bad_record_mac";
    case Alert::kRecordOverflow: return "record_overflow";
    case Alert::kHandshakeFailure: return "handshake_failure";
    case Alert::kBadCertificate: return "bad_certificate";
    case Alert::kUnsupportedCertificate: return "unsupported_certificate";
    case Alert::kCertificateRevoked: return "certificate_revoked";
    case Alert::kCertificateExpired: return "certificate_expired";
    case Alert::kCertificateUnknown: return "certificate_unknown";
    case Alert::kIllegalParameter: return "illegal_parameter";
    case Alert::kUnknownCa: return "unknown_ca";
    case Alert::kAccessDenied: return "access_denied";
    case Alert::kDecodeError: return "decode_error";
    case Alert::kDecryptError: return "decrypt_error";
    case Alert::kProtocolVersion: return "protocol_version";
    case Alert::kInsufficientSecurity: return "insufficient_security";
    case Alert::kInternalError: return "internal_error";
    case Alert::kInappropriateFallback: return "inappropriate_fallback";
    case Alert::kUserCanceled: return "user_canceled";
    case Alert::kMissingExtension: return "missing_extension";
    case Alert::kUnsupportedExtension: return "unsupported_extension";
    case Alert::kUnrecognizedName: return "unrecognized_name";
    case Alert::kBadCertificateStatusResponse: return "bad_certificate_status_response";
    case Alert::kUnknownPskIdentity: return "unknown_psk_identity";
    case Alert::kCertificateRequired: return "certificate_required";
    case Alert::kNoApplicationProtocol: return "no_application_protocol";
  }
  return "unknown";
}
// clang-format on

// ---- sealing ----

Result<RecordSealer> RecordSealer::make(const RecordState& state) {
  ZT_TRY(check_state(state));
  ZT_ASSIGN(TrafficKey traffic, derive_traffic_key(state.suite, state.secret));
  RecordSealer sealer;
  sealer.key_ = std::move(traffic.key);
  sealer.iv_ = traffic.iv;
  sealer.suite_ = state.suite;
  sealer.secret_ = state.secret;
  sealer.sequence_ = state.sequence;
  sealer.closed_ = state.closed;
  return sealer;
}

Result<size_t> RecordSealer::seal_in_place(uint8_t* record, size_t content_length, ContentType type) {
  return seal_padded_in_place(record, content_length, 0, type);
}

Result<size_t> RecordSealer::seal_padded_in_place(uint8_t* record, size_t content_length, size_t padding, ContentType type) {
  if (closed_) return fail(Reason::kInternal, "sealing a record after the closing alert");
  if (content_length > kMaxPlaintext || padding > kMaxPlaintext - content_length)
    return fail(Reason::kInternal, fmt::format("sealing {} bytes and {} of padding: a record has room for {}", content_length,
                                               padding, kMaxPlaintext));
  if (sequence_ >= kMaxRecordsPerKey)
    return fail(Reason::kInternal, fmt::format("{} records sealed with one key and no key update", sequence_));
  const size_t inner = content_length + 1 + padding, length = inner + kAeadTagBytes;
  record[0] = static_cast<uint8_t>(ContentType::kApplicationData);  // all that is protected looks like this
  record[1] = 3;
  record[2] = 3;
  record[3] = static_cast<uint8_t>(length >> 8);
  record[4] = static_cast<uint8_t>(length);
  uint8_t* const content = record + kRecordHeader;
  content[content_length] = static_cast<uint8_t>(type);
  if (padding > 0) std::memset(content + content_length + 1, 0, padding);
  const auto nonce = nonce_of(iv_, sequence_);
  if (!key_->seal(view(nonce), {record, kRecordHeader}, {content, inner},
                  std::span<uint8_t, kAeadTagBytes>(content + inner, kAeadTagBytes)))
    return fail(Reason::kInternal, "AES-GCM failed to seal a record");
  ++sequence_;
  return kRecordHeader + length;
}

Result<size_t> RecordSealer::seal_key_update(std::span<uint8_t, kKeyUpdateRecord> record, bool request_peer) {
  uint8_t* const message = record.data() + kRecordHeader;
  message[0] = kKeyUpdate;
  message[1] = message[2] = 0;
  message[3] = 1;
  message[4] = request_peer ? 1 : 0;
  // The next key first: once the peer has been told, there is no way back.
  ZT_ASSIGN(TrafficSecret secret, next_traffic_secret(suite_, secret_));
  ZT_ASSIGN(TrafficKey traffic, derive_traffic_key(suite_, secret));
  ZT_ASSIGN(const size_t length, seal_in_place(record.data(), 5, ContentType::kHandshake));
  secret_ = secret;
  key_ = std::move(traffic.key);
  iv_ = traffic.iv;
  sequence_ = 0;
  return length;
}

Result<size_t> RecordSealer::seal_alert(std::span<uint8_t, kAlertRecord> record, Alert alert) {
  // RFC 8446 §6: the level is implied by the alert; only the two closing ones are warnings.
  const bool closing = alert == Alert::kCloseNotify || alert == Alert::kUserCanceled;
  record[kRecordHeader] = closing ? kWarning : kFatal;
  record[kRecordHeader + 1] = static_cast<uint8_t>(alert);
  ZT_ASSIGN(const size_t length, seal_in_place(record.data(), 2, ContentType::kAlert));
  closed_ = alert != Alert::kUserCanceled;
  return length;
}

RecordState RecordSealer::export_state() const {
  RecordState state;
  state.suite = suite_;
  state.secret = secret_;
  state.sequence = sequence_;
  state.closed = closed_;
  return state;
}

// ---- opening ----

Result<RecordOpener> RecordOpener::make(const RecordState& state) {
  ZT_TRY(check_state(state));
  ZT_ASSIGN(TrafficKey traffic, derive_traffic_key(state.suite, state.secret));
  RecordOpener opener;
  opener.key_ = std::move(traffic.key);
  opener.iv_ = traffic.iv;
  opener.state_ = state;
  return opener;
}

std::unexpected<Error> RecordOpener::refuse(std::optional<Alert> alert, std::string text) {
  alert_ = alert;
  error_ = std::make_unique<Error>(Error{Reason::kTlsFailed, std::move(text)});
  return std::unexpected(*error_);
}

Result<OpenedRecord> RecordOpener::open(std::span<uint8_t> received) {
  if (error_) return std::unexpected(*error_);
  OpenedRecord opened;
  if (state_.closed) {
    opened.kind = OpenedRecord::Kind::kClosed;
    opened.consumed = received.size();
    return opened;
  }
  if (received.size() < kRecordHeader) {
    opened.needed = kRecordHeader;
    return opened;
  }
  // What is wrong with a header is said as soon as it is there: waiting for the rest of such a record could
  // be for ever.
  const size_t length = static_cast<size_t>(received[3]) << 8 | received[4];
  if (received[0] != static_cast<uint8_t>(ContentType::kApplicationData)) return refuse_type(received[0]);
  if (received[1] != 3 || received[2] != 3)
    return refuse(Alert::kDecodeError, fmt::format("record of version 0x{:02x}{:02x}", received[1], received[2]));
  if (length > kMaxCiphertext)
    return refuse(Alert::kRecordOverflow, fmt::format("record of {} bytes: at most {} are allowed", length, kMaxCiphertext));
  if (length < kRecordTrailer)
    return refuse(Alert::kBadRecordMac, fmt::format("record of {} bytes is too short to be protected", length));
  opened.needed = kRecordHeader + length;
  if (received.size() < opened.needed) return opened;

  if (state_.sequence == UINT64_MAX) return refuse(Alert::kInternalError, "record sequence numbers are used up");
  const auto nonce = nonce_of(iv_, state_.sequence);
  const auto inner = received.subspan(kRecordHeader, length - kAeadTagBytes);
  const auto tag = received.subspan(kRecordHeader + inner.size()).first<kAeadTagBytes>();
  if (!key_->open(view(nonce), received.first(kRecordHeader), inner, tag))
    return refuse(Alert::kBadRecordMac, "record does not decrypt: it was damaged or is not from the peer");
  ++state_.sequence;
  opened.consumed = opened.needed;
  opened.needed = 0;

  size_t end = inner.size();
  while (end > 0 && inner[end - 1] == 0) --end;
  if (end == 0) return refuse(Alert::kUnexpectedMessage, "record is nothing but padding");
  if (inner.size() > kMaxPlaintext + 1)
    return refuse(Alert::kRecordOverflow,
                  fmt::format("record holds {} bytes: at most {} are allowed", inner.size() - 1, kMaxPlaintext));
  return on_content(inner[end - 1], inner.first(end - 1), opened);
}

std::unexpected<Error> RecordOpener::refuse_type(uint8_t type) {
  const auto as_type = static_cast<ContentType>(type);
  const bool known =
      as_type == ContentType::kChangeCipherSpec || as_type == ContentType::kAlert || as_type == ContentType::kHandshake;
  return refuse(Alert::kUnexpectedMessage, known ? fmt::format("unprotected record of type {} after the handshake", type)
                                                 : fmt::format("record of unknown type {}: this is not TLS", type));
}

Result<OpenedRecord> RecordOpener::on_content(uint8_t type, std::span<uint8_t> content, OpenedRecord opened) {
  // A message that spans records must not have anything else in between (RFC 8446 §5.1).
  const bool in_message = state_.handshake_header_size > 0;
  switch (static_cast<ContentType>(type)) {
    case ContentType::kApplicationData:
      if (in_message) return refuse(Alert::kUnexpectedMessage, "application data inside a handshake message");
      opened.kind = OpenedRecord::Kind::kData;
      opened.data = content;
      if (!content.empty()) {
        state_.empty_records = state_.key_updates = state_.warning_alerts = state_.ticket_bytes = 0;
      } else if (++state_.empty_records > kMaxEmptyRecords) {
        return refuse(Alert::kUnexpectedMessage, fmt::format("more than {} empty records in a row", kMaxEmptyRecords));
      }
      return opened;
    case ContentType::kAlert:
      if (in_message) return refuse(Alert::kUnexpectedMessage, "alert inside a handshake message");
      return on_alert(content, opened);
    case ContentType::kHandshake: return on_handshake(content, opened);
    case ContentType::kChangeCipherSpec: break;  // allowed only before the peer's Finished, and never protected (RFC 8446 §5)
  }
  return refuse(Alert::kUnexpectedMessage, fmt::format("protected record of type {}", type));
}

Result<OpenedRecord> RecordOpener::on_alert(std::span<const uint8_t> content, OpenedRecord opened) {
  if (content.size() != 2) return refuse(Alert::kDecodeError, fmt::format("alert of {} bytes instead of 2", content.size()));
  const auto alert = static_cast<Alert>(content[1]);
  if (alert == Alert::kCloseNotify) {
    state_.closed = true;
    opened.kind = OpenedRecord::Kind::kClosed;
    return opened;
  }
  if (alert == Alert::kUserCanceled) {  // to be followed by close_notify
    if (++state_.warning_alerts > kMaxWarningAlerts)
      return refuse(Alert::kUnexpectedMessage, fmt::format("more than {} warning alerts in a row", kMaxWarningAlerts));
    opened.kind = OpenedRecord::Kind::kControl;
    return opened;
  }
  // All others are fatal, whatever level they claim, and so are those without a name (RFC 8446 §6.2).
  return refuse(std::nullopt, fmt::format("peer sent alert {} ({})", alert_name(alert), content[1]));
}

Result<OpenedRecord> RecordOpener::on_handshake(std::span<const uint8_t> content, OpenedRecord opened) {
  if (content.empty()) return refuse(Alert::kUnexpectedMessage, "handshake record without content");
  opened.kind = OpenedRecord::Kind::kControl;
  while (!content.empty()) {
    if (state_.handshake_header_size < state_.handshake_header.size()) {
      state_.handshake_header[state_.handshake_header_size++] = content.front();
      content = content.subspan(1);
      if (state_.handshake_header_size < state_.handshake_header.size()) continue;
      if (const auto started = on_message_start(); !started) return std::unexpected(started.error());
    }
    const bool update = state_.handshake_header[0] == kKeyUpdate;
    const size_t take = std::min<size_t>(state_.handshake_left, content.size());
    if (update && take > 0) {
      // The key changes with the record, so nothing may follow (RFC 8446 §5.1).
      if (content.size() > 1) return refuse(Alert::kUnexpectedMessage, "data after a KeyUpdate in its record");
      ZT_TRY(on_key_update(content.front()));
    }
    state_.handshake_left -= static_cast<uint32_t>(take);
    content = content.subspan(take);
    if (state_.handshake_left == 0) state_.handshake_header_size = 0;
  }
  return opened;
}

Result<> RecordOpener::on_message_start() {
  const auto& header = state_.handshake_header;
  state_.handshake_left = static_cast<uint32_t>(header[1]) << 16 | static_cast<uint32_t>(header[2]) << 8 | header[3];
  if (header[0] == kKeyUpdate) {
    if (state_.handshake_left != 1)
      return refuse(Alert::kDecodeError, fmt::format("KeyUpdate of {} bytes instead of 1", state_.handshake_left));
    if (++state_.key_updates > kMaxKeyUpdates)
      return refuse(Alert::kUnexpectedMessage, fmt::format("more than {} key updates in a row", kMaxKeyUpdates));
    return {};
  }
  if (header[0] == kNewSessionTicket && state_.from_server) {
    // We do not resume sessions (contract §2.1), so a ticket is of no use.
    const uint32_t bytes = state_.handshake_left + static_cast<uint32_t>(header.size());
    if (bytes > kMaxTicketBytes - state_.ticket_bytes)
      return refuse(Alert::kUnexpectedMessage, fmt::format("more than {} bytes of session tickets", kMaxTicketBytes));
    state_.ticket_bytes += bytes;
    return {};
  }
  return refuse(Alert::kUnexpectedMessage, fmt::format("handshake message {} after the handshake", header[0]));
}

Result<> RecordOpener::on_key_update(uint8_t request) {
  if (request > 1) return refuse(Alert::kIllegalParameter, fmt::format("KeyUpdate with request {}", request));
  if (request == 1) state_.key_update_due = true;
  auto secret = next_traffic_secret(state_.suite, state_.secret);
  if (!secret) return refuse(Alert::kInternalError, std::move(secret.error().text));
  auto traffic = derive_traffic_key(state_.suite, *secret);
  if (!traffic) return refuse(Alert::kInternalError, std::move(traffic.error().text));
  state_.secret = *secret;
  state_.sequence = 0;
  key_ = std::move(traffic->key);
  iv_ = traffic->iv;
  state_.key_update_asked = false;
  return {};
}

}  // namespace zt::hbone
