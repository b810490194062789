// What the record layer refuses from a peer, and how much of what carries no data it takes.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/hbone/tls/record_test_support.h"

namespace zt::hbone {
namespace {

using namespace testing;

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
      {"an unknown inner type", {{{1}, static_cast<ContentType>(99)}}, Alert::kUnexpectedMessage, "protected record of type 99"},
      {"nothing but padding", {{{}, static_cast<ContentType>(0), 40}}, Alert::kUnexpectedMessage, "nothing but padding"},
      {"an alert without content", {{{}, ContentType::kAlert}}, Alert::kDecodeError, "alert of 0 bytes"},
      {"half an alert", {{{2}, ContentType::kAlert}}, Alert::kDecodeError, "alert of 1 bytes"},
      {"two alerts in a record", {{{2, 42, 2, 42}, ContentType::kAlert}}, Alert::kDecodeError, "alert of 4 bytes"},
      {"a handshake record without content", {{{}, ContentType::kHandshake}}, Alert::kUnexpectedMessage, "without content"},
      {"a padded handshake record without content",
       {{{}, ContentType::kHandshake, 9}},
       Alert::kUnexpectedMessage,
       "without content"},
      {"a ClientHello", {{unhex("01000001 00"), ContentType::kHandshake}}, Alert::kUnexpectedMessage, "handshake message 1 "},
      {"a CertificateRequest",
       {{unhex("0d000001 00"), ContentType::kHandshake}},
       Alert::kUnexpectedMessage,
       "handshake message 13 "},
      {"a Finished", {{unhex("14000000"), ContentType::kHandshake}}, Alert::kUnexpectedMessage, "handshake message 20 "},
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
      {"an empty KeyUpdate", {{unhex("18000000"), ContentType::kHandshake}}, Alert::kDecodeError, "KeyUpdate of 0 bytes"},
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
    for (const Piece& piece : row.pieces) wire = wire + seal(sealer, piece.content, piece.type, piece.padding);
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
      REQUIRE(key->key->seal(std::span<const uint8_t, kAeadNonceBytes>(key->iv), std::span(record).first(kRecordHeader), data,
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
      {"padded empty records", {{}, ContentType::kApplicationData, 100}, kMaxEmptyRecords, "empty records in a row"},
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
        error +=
            open_all(opener, seal(sealer, Bytes(begin, begin + static_cast<ptrdiff_t>(size)), row.piece.type, row.piece.padding))
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
    for (size_t i = 0; i < kMaxKeyUpdates; ++i) REQUIRE(open_all(opener, seal_key_update(sealer, true)).error.empty());
    if (round == 0) REQUIRE(open_all(opener, seal(sealer, counting(1))).error.empty());
  }
  CHECK_THAT(open_all(opener, seal_key_update(sealer, true)).error, Catch::Contains("key updates in a row"));
}

}  // namespace
}  // namespace zt::hbone
