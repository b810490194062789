#include "hbone/record_layer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tls_test_support.h"

namespace zt::hbone {
namespace {

using testing::Bytes;
using testing::hex;
using testing::unhex;
using Kind = OpenedRecord::Kind;

constexpr CipherSuite kSuites[] = {CipherSuite::kAes128GcmSha256, CipherSuite::kAes256GcmSha384};

RecordState some_state(CipherSuite suite, bool from_server = true) {
  RecordState state;
  state.suite = suite;
  state.from_server = from_server;
  state.secret = TrafficSecret(Bytes(suite_hash_bytes(suite), 0x42));
  return state;
}

RecordSealer make_sealer(const RecordState& state) {
  auto made = RecordSealer::make(state);
  REQUIRE(made);
  return std::move(*made);
}

RecordOpener make_opener(const RecordState& state) {
  auto made = RecordOpener::make(state);
  REQUIRE(made);
  return std::move(*made);
}

Bytes seal(RecordSealer& sealer, const Bytes& content, ContentType type = ContentType::kApplicationData,
           size_t padding = 0) {
  Bytes record(content.size() + kRecordOverhead + padding);
  std::ranges::copy(content, record.begin() + kRecordHeader);
  const auto sealed = sealer.seal_padded_in_place(record.data(), content.size(), padding, type);
  REQUIRE(sealed);
  CHECK(*sealed == record.size());
  return record;
}

Bytes seal_key_update(RecordSealer& sealer, bool request) {
  Bytes record(kKeyUpdateRecord);
  REQUIRE(sealer.seal_key_update(std::span(record).first<kKeyUpdateRecord>(), request));
  return record;
}

Bytes seal_alert(RecordSealer& sealer, Alert alert) {
  Bytes record(kAlertRecord);
  REQUIRE(sealer.seal_alert(std::span(record).first<kAlertRecord>(), alert));
  return record;
}

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

Bytes counting(size_t size) {
  Bytes bytes(size);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  return bytes;
}

// All application data in `wire`; stops at the first thing that is neither data nor control.
struct Opened {
  Bytes data;
  size_t consumed = 0;
  Kind last = Kind::kIncomplete;
  std::string error;
};
Opened open_all(RecordOpener& opener, Bytes wire) {
  Opened result;
  for (auto rest = std::span(wire);;) {
    const auto opened = opener.open(rest);
    if (!opened) {
      result.error = opened.error().text;
      CHECK(opened.error().reason == Reason::kTlsFailed);
      return result;
    }
    result.last = opened->kind;
    result.consumed += opened->consumed;
    if (opened->kind == Kind::kIncomplete || opened->kind == Kind::kClosed) return result;
    if (opened->kind == Kind::kData)
      result.data.insert(result.data.end(), opened->data.begin(), opened->data.end());
    rest = rest.subspan(opened->consumed);
  }
}

// ---- RFC 8448 §3, "Simple 1-RTT Handshake" ----

constexpr const char* kClientSecret = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
constexpr const char* kServerSecret = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
constexpr const char* kServerTicket =
    "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a"
    "015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e0"
    "9c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db2f0a77"
    "f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74"
    "bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f";
constexpr const char* kClientData =
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b"
    "62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
constexpr const char* kServerData =
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8"
    "fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
constexpr const char* kClientAlert = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
constexpr const char* kServerAlert = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

RecordState rfc_state(const char* secret, bool from_server) {
  RecordState state;
  state.from_server = from_server;
  state.secret = TrafficSecret(unhex(secret));
  return state;
}

TEST_CASE("the key schedule gives the application traffic keys of RFC 8448") {
  struct Row {
    const char* secret;
    const char* label;
    const char* value;
  };
  const Row rows[] = {{kClientSecret, "key", "17422dda596ed5d9acd890e3c63f5051"},
                      {kClientSecret, "iv", "5b78923dee08579033e523d9"},
                      {kServerSecret, "key", "9f02283b6c9c07efc26bb9f2ac92e356"},
                      {kServerSecret, "iv", "cf782b88dd83549aadf1e984"}};
  for (const Row& row : rows) {
    Bytes out(unhex(row.value).size());
    REQUIRE(hkdf_expand_label(CipherSuite::kAes128GcmSha256, unhex(row.secret), row.label, out));
    CHECK(hex(out) == row.value);
  }
}

TEST_CASE("a label or length that HKDF-Expand-Label cannot do in one hash is refused") {
  Bytes out(33);
  const Bytes secret(32);
  CHECK_FALSE(hkdf_expand_label(CipherSuite::kAes128GcmSha256, secret, "key", out));
  CHECK_FALSE(hkdf_expand_label(CipherSuite::kAes256GcmSha384, secret, "key", std::span(out).first(16)));
  CHECK_FALSE(hkdf_expand_label(CipherSuite::kAes128GcmSha256, secret, std::string(33, 'x'),
                                std::span(out).first(16)));
}

TEST_CASE("the client's records of RFC 8448 are sealed and opened byte by byte") {
  RecordSealer sealer = make_sealer(rfc_state(kClientSecret, false));
  CHECK(hex(seal(sealer, counting(50))) == hex(unhex(kClientData)));
  CHECK(hex(seal_alert(sealer, Alert::kCloseNotify)) == hex(unhex(kClientAlert)));

  RecordOpener opener = make_opener(rfc_state(kClientSecret, false));
  const Opened opened = open_all(opener, unhex(kClientData) + unhex(kClientAlert));
  CHECK(opened.data == counting(50));
  CHECK(opened.last == Kind::kClosed);
  CHECK(opener.finished_cleanly());
}

TEST_CASE("the server's records of RFC 8448 are sealed and opened byte by byte, the ticket is skipped") {
  RecordOpener opener = make_opener(rfc_state(kServerSecret, true));
  const Opened opened = open_all(opener, unhex(kServerTicket) + unhex(kServerData) + unhex(kServerAlert));
  CHECK(opened.error.empty());
  CHECK(opened.data == counting(50));
  CHECK(opened.last == Kind::kClosed);

  RecordState state = rfc_state(kServerSecret, true);
  state.sequence = 1;  // the ticket was record 0
  RecordSealer sealer = make_sealer(state);
  CHECK(hex(seal(sealer, counting(50))) == hex(unhex(kServerData)));
  CHECK(hex(seal_alert(sealer, Alert::kCloseNotify)) == hex(unhex(kServerAlert)));
}

// ---- the ordinary way ----

TEST_CASE("records of every content length come back as they were sent") {
  for (const CipherSuite suite : kSuites) {
    RecordSealer sealer = make_sealer(some_state(suite));
    RecordOpener opener = make_opener(some_state(suite));
    for (const size_t size : {1u, 2u, 15u, 16u, 17u, 255u, 256u, 300u, 1400u, 16383u, 16384u}) {
      Bytes record = seal(sealer, counting(size));
      CHECK(record.size() == size + kRecordOverhead);
      const auto opened = opener.open(record);
      REQUIRE(opened);
      CHECK(opened->kind == Kind::kData);
      CHECK(opened->consumed == record.size());
      CHECK(std::ranges::equal(opened->data, counting(size)));
      CHECK(opened->data.data() == record.data() + kRecordHeader);
    }
  }
}

TEST_CASE("a buffer of many records is opened one after the other, an incomplete one says what it needs") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
  Bytes wire, plain;
  for (size_t i = 0; i < 20; ++i) {
    wire = wire + seal(sealer, counting(i * 37));
    plain = plain + counting(i * 37);
  }
  const Bytes last = seal(sealer, counting(100));
  const Opened opened = open_all(opener, wire + Bytes(last.begin(), last.end() - 1));
  CHECK(opened.data == plain);
  CHECK(opened.consumed == wire.size());
  CHECK(opened.last == Kind::kIncomplete);
  Bytes rest(last.begin(), last.end() - 1);
  for (size_t size = 0; size < last.size(); ++size) {
    const auto incomplete = opener.open(std::span(rest).first(std::min(size, rest.size())));
    REQUIRE(incomplete);
    CHECK(incomplete->kind == Kind::kIncomplete);
    CHECK(incomplete->consumed == 0);
    CHECK(incomplete->needed == (size < kRecordHeader ? kRecordHeader : last.size()));
  }
  CHECK(open_all(opener, last).data == counting(100));
}

TEST_CASE("padding is taken off, however much of it there is") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes256GcmSha384));
  RecordOpener opener = make_opener(some_state(CipherSuite::kAes256GcmSha384));
  for (const size_t content : {0u, 1u, 100u})
    for (const size_t padding : {0u, 1u, 15u, 16u, 256u, 16384u - 100u})
      CHECK(open_all(opener, seal(sealer, counting(content), ContentType::kApplicationData, padding)).data ==
            counting(content));
  // Content that ends in zeros is not padding.
  CHECK(open_all(opener, seal(sealer, Bytes(64, 0), ContentType::kApplicationData, 3)).data == Bytes(64, 0));
}

TEST_CASE("the sealer refuses what does not fit into a record") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  Bytes record(kMaxPlaintext * 3);
  CHECK_FALSE(sealer.seal_in_place(record.data(), kMaxPlaintext + 1, ContentType::kApplicationData));
  CHECK_FALSE(
      sealer.seal_padded_in_place(record.data(), 10, kMaxPlaintext - 9, ContentType::kApplicationData));
  CHECK_FALSE(sealer.seal_padded_in_place(record.data(), 10, SIZE_MAX, ContentType::kApplicationData));
  CHECK(sealer.seal_padded_in_place(record.data(), 10, kMaxPlaintext - 10, ContentType::kApplicationData));
  CHECK(sealer.export_state().sequence == 1);
}

// ---- key updates ----

TEST_CASE("a key update changes the key at its record and asks for an answer only when it says so") {
  for (const CipherSuite suite : kSuites) {
    for (const bool request : {false, true}) {
      RecordSealer sealer = make_sealer(some_state(suite));
      RecordOpener opener = make_opener(some_state(suite));
      Bytes wire = seal(sealer, counting(10)) + seal_key_update(sealer, request);
      CHECK(sealer.export_state().sequence == 0);
      wire = wire + seal(sealer, counting(20)) + seal_key_update(sealer, false) + seal(sealer, counting(30));
      const Opened opened = open_all(opener, wire);
      CHECK(opened.error.empty());
      CHECK(opened.data == counting(10) + counting(20) + counting(30));
      CHECK(opener.key_update_due() == request);
      opener.key_update_answered();
      CHECK_FALSE(opener.key_update_due());
    }
  }
}

TEST_CASE("records under an old key are refused after a key update") {
  RecordSealer old_key = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
  CHECK(open_all(opener, seal_key_update(sealer, false)).error.empty());
  CHECK_THAT(open_all(opener, seal(old_key, counting(5))).error, Catch::Contains("does not decrypt"));
  CHECK(opener.alert_to_send() == Alert::kBadRecordMac);
}

TEST_CASE("the sealer asks for a key update in time and refuses to seal beyond what AES-GCM allows") {
  RecordState state = some_state(CipherSuite::kAes128GcmSha256);
  state.sequence = kKeyUpdateAfterRecords - 1;
  RecordSealer sealer = make_sealer(state);
  CHECK_FALSE(sealer.needs_key_update());
  seal(sealer, counting(1));
  CHECK(sealer.needs_key_update());
  seal_key_update(sealer, false);
  CHECK_FALSE(sealer.needs_key_update());

  state.sequence = kMaxRecordsPerKey - 1;
  RecordSealer last = make_sealer(state);
  seal(last, counting(1));
  Bytes record(100);
  const auto refused = last.seal_in_place(record.data(), 1, ContentType::kApplicationData);
  REQUIRE_FALSE(refused);
  CHECK_THAT(refused.error().text, Catch::Contains("no key update"));
}

TEST_CASE(
    "the opener wants the peer to change a key that was used for long, and never lets sequence numbers "
    "wrap") {
  RecordState state = some_state(CipherSuite::kAes128GcmSha256);
  state.sequence = kKeyUpdateAfterRecords;
  RecordSealer sealer = make_sealer(state);
  RecordOpener opener = make_opener(state);
  CHECK(opener.should_request_key_update());
  opener.key_update_requested();
  CHECK_FALSE(opener.should_request_key_update());
  CHECK(open_all(opener, seal(sealer, counting(3)) + seal_key_update(sealer, false)).error.empty());
  CHECK_FALSE(opener.should_request_key_update());

  state.sequence = UINT64_MAX;
  RecordOpener last = make_opener(state);
  Bytes record = unhex("1703030020") + Bytes(32);
  CHECK_THAT(open_all(last, record).error, Catch::Contains("sequence numbers are used up"));
}

// ---- the end ----

TEST_CASE("close_notify ends a direction: nothing after it is read, nothing can be sealed") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
  CHECK_FALSE(opener.finished_cleanly());
  const Opened opened = open_all(opener, seal(sealer, counting(9)) + seal_alert(sealer, Alert::kCloseNotify));
  CHECK(opened.data == counting(9));
  CHECK(opened.last == Kind::kClosed);
  CHECK(opener.finished_cleanly());
  const Opened garbage = open_all(opener, Bytes(50, 0xee));
  CHECK(garbage.last == Kind::kClosed);
  CHECK(garbage.consumed == 50);
  CHECK(garbage.error.empty());
  Bytes record(100);
  CHECK_FALSE(sealer.seal_in_place(record.data(), 10, ContentType::kApplicationData));
}

TEST_CASE("a stream that is cut is told from one that was ended") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  const Bytes wire = seal(sealer, counting(9)) + seal_alert(sealer, Alert::kCloseNotify);
  for (size_t size = 0; size <= wire.size(); ++size) {
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    CHECK(open_all(opener, Bytes(wire.begin(), wire.begin() + static_cast<ptrdiff_t>(size))).error.empty());
    CHECK(opener.finished_cleanly() == (size == wire.size()));
  }
}

TEST_CASE("a peer's fatal alert is an error with its name and is not answered") {
  struct Row {
    uint8_t level, alert;
    const char* text;
  };
  const Row rows[] = {{2, 42, "peer sent alert bad_certificate (42)"},
                      {1, 42, "peer sent alert bad_certificate (42)"},  // the level does not matter
                      {2, 116, "peer sent alert certificate_required (116)"},
                      {2, 20, "peer sent alert bad_record_mac (20)"},
                      {2, 255, "peer sent alert unknown (255)"}};
  for (const Row& row : rows) {
    RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    CHECK(open_all(opener, seal(sealer, {row.level, row.alert}, ContentType::kAlert)).error == row.text);
    CHECK_FALSE(opener.alert_to_send());
    CHECK_FALSE(opener.finished_cleanly());
  }
}

TEST_CASE("sealed fatal alerts are read by the other side and end the sealer") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
  CHECK(open_all(opener, seal_alert(sealer, Alert::kCertificateRevoked)).error ==
        "peer sent alert certificate_revoked (44)");
  Bytes record(100);
  CHECK_FALSE(sealer.seal_in_place(record.data(), 1, ContentType::kApplicationData));
}

// ---- what is refused ----

// A record under the peer's key, or bytes as they are.
struct Piece {
  Bytes content;
  ContentType type = ContentType::kApplicationData;
  size_t padding = 0;
};

TEST_CASE("what a peer may not send after the handshake is refused with the alert of RFC 8446") {
  struct Row {
    const char* name;
    std::vector<Piece> pieces;
    Alert alert;
    const char* text;
    bool from_server = true;
  };
  const Bytes ticket_start = unhex("04 00 00 10 00 00");
  const std::vector<Row> rows = {
      {"a change_cipher_spec, protected",
       {{{1}, ContentType::kChangeCipherSpec}},
       Alert::kUnexpectedMessage,
       "protected record of type 20"},
      {"an unknown inner type",
       {{{1}, static_cast<ContentType>(99)}},
       Alert::kUnexpectedMessage,
       "protected record of type 99"},
      {"nothing but padding",
       {{{}, static_cast<ContentType>(0), 40}},
       Alert::kUnexpectedMessage,
       "nothing but padding"},
      {"an alert without content", {{{}, ContentType::kAlert}}, Alert::kDecodeError, "alert of 0 bytes"},
      {"half an alert", {{{2}, ContentType::kAlert}}, Alert::kDecodeError, "alert of 1 bytes"},
      {"two alerts in a record",
       {{{2, 42, 2, 42}, ContentType::kAlert}},
       Alert::kDecodeError,
       "alert of 4 bytes"},
      {"a handshake record without content",
       {{{}, ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "without content"},
      {"a padded handshake record without content",
       {{{}, ContentType::kHandshake, 9}},
       Alert::kUnexpectedMessage,
       "without content"},
      {"a ClientHello",
       {{unhex("01000001 00"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "handshake message 1 "},
      {"a CertificateRequest",
       {{unhex("0d000001 00"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "handshake message 13 "},
      {"a Finished",
       {{unhex("14000000"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "handshake message 20 "},
      {"a ticket from a client",
       {{unhex("04000001 00"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "handshake message 4 ",
       false},
      {"a ticket that is too big",
       {{unhex("04040000"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "bytes of session tickets"},
      {"a KeyUpdate of two bytes",
       {{unhex("18000002 0000"), ContentType::kHandshake}},
       Alert::kDecodeError,
       "KeyUpdate of 2 bytes"},
      {"an empty KeyUpdate",
       {{unhex("18000000"), ContentType::kHandshake}},
       Alert::kDecodeError,
       "KeyUpdate of 0 bytes"},
      {"a KeyUpdate that asks for 2",
       {{unhex("18000001 02"), ContentType::kHandshake}},
       Alert::kIllegalParameter,
       "KeyUpdate with request 2"},
      {"a KeyUpdate that is not last in its record",
       {{unhex("18000001 00 04000000"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "data after a KeyUpdate"},
      {"application data inside a ticket",
       {{ticket_start, ContentType::kHandshake}, {{1, 2}}},
       Alert::kUnexpectedMessage,
       "application data inside a handshake message"},
      {"application data inside a message's header",
       {{{4}, ContentType::kHandshake}, {{1, 2}}},
       Alert::kUnexpectedMessage,
       "application data inside a handshake message"},
      {"an alert inside a ticket",
       {{ticket_start, ContentType::kHandshake}, {{1, 0}, ContentType::kAlert}},
       Alert::kUnexpectedMessage,
       "alert inside a handshake message"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256, row.from_server));
    Bytes wire;
    for (const Piece& piece : row.pieces)
      wire = wire + seal(sealer, piece.content, piece.type, piece.padding);
    const Opened opened = open_all(opener, wire);
    CHECK_THAT(opened.error, Catch::Contains(row.text));
    CHECK(opener.alert_to_send() == row.alert);
    CHECK_FALSE(opener.finished_cleanly());
    // It is final.
    CHECK(open_all(opener, seal(sealer, counting(4))).error == opened.error);
  }
}

TEST_CASE("a bad record header is refused at once, without waiting for the record") {
  struct Row {
    const char* name;
    const char* header;
    Alert alert;
    const char* text;
  };
  const Row rows[] = {
      {"plain alert", "1503030002", Alert::kUnexpectedMessage, "unprotected record of type 21"},
      {"plain handshake", "1603030002", Alert::kUnexpectedMessage, "unprotected record of type 22"},
      {"change_cipher_spec", "1403030001", Alert::kUnexpectedMessage, "unprotected record of type 20"},
      {"HTTP", "474554202f", Alert::kUnexpectedMessage, "record of unknown type 71: this is not TLS"},
      {"version 3.1", "1703010020", Alert::kDecodeError, "record of version 0x0301"},
      {"version 3.4", "1703040020", Alert::kDecodeError, "record of version 0x0304"},
      {"too long", "1703034101", Alert::kRecordOverflow, "record of 16641 bytes"},
      {"far too long", "170303ffff", Alert::kRecordOverflow, "record of 65535 bytes"},
      {"no room for tag and type", "1703030010", Alert::kBadRecordMac, "too short"},
      {"empty", "1703030000", Alert::kBadRecordMac, "too short"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    CHECK_THAT(open_all(opener, unhex(row.header)).error, Catch::Contains(row.text));
    CHECK(opener.alert_to_send() == row.alert);
  }
  RecordOpener longest = make_opener(some_state(CipherSuite::kAes128GcmSha256));
  CHECK(open_all(longest, unhex("1703034100")).error.empty());
}

TEST_CASE("a record that holds more than 16384 bytes is refused though its header passes") {
  // No sealer of ours makes one: seal it by hand.
  const RecordState state = some_state(CipherSuite::kAes128GcmSha256);
  auto key = derive_traffic_key(state.suite, state.secret);
  REQUIRE(key);
  for (const size_t inner : {kMaxPlaintext + 1, kMaxPlaintext + 2, kMaxPlaintext + 240}) {
    for (const bool padded : {false, true}) {
      Bytes record(kRecordHeader + inner + kAeadTagBytes);
      const size_t length = inner + kAeadTagBytes;
      record[0] = 0x17;
      record[1] = record[2] = 3;
      record[3] = static_cast<uint8_t>(length >> 8);
      record[4] = static_cast<uint8_t>(length);
      record[padded ? kRecordHeader + 10 : kRecordHeader + inner - 1] = 0x17;
      const auto data = std::span(record).subspan(kRecordHeader, inner);
      REQUIRE(key->key->seal(std::span<const uint8_t, kAeadNonceBytes>(key->iv),
                             std::span(record).first(kRecordHeader), data,
                             std::span(record).last<kAeadTagBytes>()));
      RecordOpener opener = make_opener(state);
      const Opened opened = open_all(opener, record);
      INFO(inner << (padded ? " padded" : ""));
      if (inner == kMaxPlaintext + 1) {
        CHECK(opened.error.empty());
      } else {
        CHECK_THAT(opened.error, Catch::Contains("at most 16384 are allowed"));
        CHECK(opener.alert_to_send() == Alert::kRecordOverflow);
      }
    }
  }
}

TEST_CASE("a record of which one bit is wrong, that comes twice, or out of order, does not decrypt") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes256GcmSha384));
  const Bytes first = seal(sealer, counting(20)), second = seal(sealer, counting(21));
  for (size_t i = kRecordHeader; i < first.size(); ++i) {
    Bytes spoilt = first;
    spoilt[i] ^= 1;
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes256GcmSha384));
    CHECK_THAT(open_all(opener, spoilt).error, Catch::Contains("does not decrypt"));
    CHECK(opener.alert_to_send() == Alert::kBadRecordMac);
  }
  RecordOpener twice = make_opener(some_state(CipherSuite::kAes256GcmSha384));
  CHECK_THAT(open_all(twice, first + first).error, Catch::Contains("does not decrypt"));
  RecordOpener swapped = make_opener(some_state(CipherSuite::kAes256GcmSha384));
  CHECK_THAT(open_all(swapped, second + first).error, Catch::Contains("does not decrypt"));
}

// ---- floods ----

TEST_CASE("messages without application data are bounded, and data makes room for new ones") {
  struct Row {
    const char* name;
    Piece piece;
    size_t allowed;
    const char* text;
  };
  const Bytes ticket = unhex("0400fffc") + Bytes(0xfffc);
  const Row rows[] = {
      {"empty records", {{}}, kMaxEmptyRecords, "empty records in a row"},
      {"padded empty records",
       {{}, ContentType::kApplicationData, 100},
       kMaxEmptyRecords,
       "empty records in a row"},
      {"warnings", {{1, 90}, ContentType::kAlert}, kMaxWarningAlerts, "warning alerts in a row"},
      {"tickets", {ticket, ContentType::kHandshake}, kMaxTicketBytes / 0x10000, "bytes of session tickets"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    const auto send = [&]() {
      std::string error;
      for (size_t at = 0; at == 0 || at < row.piece.content.size(); at += 16000) {
        const size_t size = std::min<size_t>(16000, row.piece.content.size() - at);
        const auto begin = row.piece.content.begin() + static_cast<ptrdiff_t>(at);
        error += open_all(opener, seal(sealer, Bytes(begin, begin + static_cast<ptrdiff_t>(size)),
                                       row.piece.type, row.piece.padding))
                     .error;
      }
      return error;
    };
    for (int round = 0; round < 3; ++round) {
      for (size_t i = 0; i < row.allowed; ++i) REQUIRE(send().empty());
      REQUIRE(open_all(opener, seal(sealer, counting(1))).error.empty());
    }
    for (size_t i = 0; i < row.allowed; ++i) REQUIRE(send().empty());
    CHECK_THAT(send(), Catch::Contains(row.text));
    CHECK(opener.alert_to_send() == Alert::kUnexpectedMessage);
  }
}

TEST_CASE("key updates without application data are bounded") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < kMaxKeyUpdates; ++i)
      REQUIRE(open_all(opener, seal_key_update(sealer, true)).error.empty());
    if (round == 0) REQUIRE(open_all(opener, seal(sealer, counting(1))).error.empty());
  }
  CHECK_THAT(open_all(opener, seal_key_update(sealer, true)).error, Catch::Contains("key updates in a row"));
}

// ---- messages over records ----

TEST_CASE("tickets and key updates may be cut into records anywhere") {
  const Bytes messages = unhex("04000005 0102030405 04000000 04000002 ffff 18000001 01");
  for (size_t step = 1; step <= messages.size(); ++step) {
    RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    for (size_t at = 0; at < messages.size(); at += step) {
      const auto begin = messages.begin() + static_cast<ptrdiff_t>(at);
      const auto size = static_cast<ptrdiff_t>(std::min(step, messages.size() - at));
      CHECK(
          open_all(opener, seal(sealer, Bytes(begin, begin + size), ContentType::kHandshake)).error.empty());
    }
    INFO("step " << step);
    CHECK(opener.key_update_due());
    // The sealer goes on with the key that such an update leads to.
    RecordState next = sealer.export_state();
    const auto secret = next_traffic_secret(next.suite, next.secret);
    REQUIRE(secret);
    next.secret = *secret;
    next.sequence = 0;
    RecordSealer after = make_sealer(next);
    CHECK(open_all(opener, seal(after, counting(7))).data == counting(7));
  }
}

// ---- hand-over ----

TEST_CASE("either direction goes on from its exported state, also inside a message and after a key update") {
  for (const CipherSuite suite : kSuites) {
    RecordSealer sealer = make_sealer(some_state(suite));
    RecordOpener opener = make_opener(some_state(suite));
    const auto hand_over = [&] {
      sealer = make_sealer(sealer.export_state());
      opener = make_opener(opener.export_state());
    };
    for (int i = 0; i < 3; ++i) {
      CHECK(open_all(opener, seal(sealer, counting(100))).data == counting(100));
      hand_over();
      CHECK(open_all(opener, seal_key_update(sealer, true)).error.empty());
      hand_over();
      CHECK(opener.key_update_due());
      for (const Bytes& part : {unhex("0400"), unhex("0006 0102"), unhex("03040506")}) {
        CHECK(open_all(opener, seal(sealer, part, ContentType::kHandshake)).error.empty());
        hand_over();
      }
    }
    CHECK(open_all(opener, seal_alert(sealer, Alert::kCloseNotify)).last == Kind::kClosed);
    hand_over();
    CHECK(opener.finished_cleanly());
    Bytes record(100);
    CHECK_FALSE(sealer.seal_in_place(record.data(), 1, ContentType::kApplicationData));
  }
}

TEST_CASE("a state that cannot be is refused") {
  RecordState state = some_state(CipherSuite::kAes256GcmSha384);
  state.suite = CipherSuite::kAes128GcmSha256;
  CHECK_FALSE(RecordSealer::make(state));
  const auto wrong_secret = RecordOpener::make(state);
  REQUIRE_FALSE(wrong_secret);
  CHECK(wrong_secret.error().reason == Reason::kInvalidInput);
  state = some_state(CipherSuite::kAes128GcmSha256);
  state.suite = static_cast<CipherSuite>(0x1303);
  CHECK_THAT(RecordOpener::make(state).error().text, Catch::Contains("0x1303"));
  state = some_state(CipherSuite::kAes128GcmSha256);
  state.handshake_header_size = 5;
  CHECK_FALSE(RecordOpener::make(state));
}

TEST_CASE("an idle direction is small") {
  CHECK(sizeof(RecordSealer) <= 112);
  CHECK(sizeof(RecordOpener) <= 160);
}

TEST_CASE("random damage to a stream of records is an error or an incomplete record, never wrong data") {
  std::mt19937_64 random(5);
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  Bytes wire;
  for (size_t i = 0; i < 12; ++i) wire = wire + seal(sealer, counting(i * 11));
  const Bytes plain = [&] {
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    return open_all(opener, wire).data;
  }();
  for (int i = 0; i < 3000; ++i) {
    Bytes spoilt = wire;
    const size_t at = random() % spoilt.size();
    spoilt[at] ^= static_cast<uint8_t>(1 + random() % 255);
    RecordOpener opener = make_opener(some_state(CipherSuite::kAes128GcmSha256));
    const Opened opened = open_all(opener, spoilt);
    REQUIRE(opened.data.size() < plain.size());
    REQUIRE(std::equal(opened.data.begin(), opened.data.end(), plain.begin()));
  }
}

}  // namespace
}  // namespace zt::hbone
