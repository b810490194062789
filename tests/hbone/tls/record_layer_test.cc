#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

#include "mesh/reason.h"
#include "tests/hbone/tls/record_test_support.h"

namespace zt::hbone {
namespace {

using namespace testing;

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
  CHECK_FALSE(hkdf_expand_label(CipherSuite::kAes128GcmSha256, secret, std::string(33, 'x'), std::span(out).first(16)));
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
      CHECK(open_all(opener, seal(sealer, counting(content), ContentType::kApplicationData, padding)).data == counting(content));
  // Content that ends in zeros is not padding.
  CHECK(open_all(opener, seal(sealer, Bytes(64, 0), ContentType::kApplicationData, 3)).data == Bytes(64, 0));
}

TEST_CASE("the sealer refuses what does not fit into a record") {
  RecordSealer sealer = make_sealer(some_state(CipherSuite::kAes128GcmSha256));
  Bytes record(kMaxPlaintext * 3);
  CHECK_FALSE(sealer.seal_in_place(record.data(), kMaxPlaintext + 1, ContentType::kApplicationData));
  CHECK_FALSE(sealer.seal_padded_in_place(record.data(), 10, kMaxPlaintext - 9, ContentType::kApplicationData));
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
  CHECK(open_all(opener, seal_alert(sealer, Alert::kCertificateRevoked)).error == "peer sent alert certificate_revoked (44)");
  Bytes record(100);
  CHECK_FALSE(sealer.seal_in_place(record.data(), 1, ContentType::kApplicationData));
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
      CHECK(open_all(opener, seal(sealer, Bytes(begin, begin + size), ContentType::kHandshake)).error.empty());
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
