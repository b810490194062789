#include "zds/zds.h"
#include "mesh/reason.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <vector>

#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::zds;
using zt::testing::error_text;
using zt::testing::hex;
using zt::testing::unhex;

TEST_CASE("messages encode to the bytes of the contract's appendix") {
  CHECK(hex(encode(ZdsHello{})) == "0801");
  CHECK(hex(encode(WorkloadAck{})) == "0a00");
  CHECK(hex(encode(WorkloadAck{"no"})) == "0a040a026e6f");
  CHECK(hex(encode(WorkloadRequest(SnapshotSent{}))) == "1a00");
  CHECK(hex(encode(WorkloadRequest(DelWorkload{"u"}))) == "1203120175");
  CHECK(hex(encode(WorkloadRequest(KeepWorkload{"u"}))) == "2a030a0175");
  CHECK(hex(encode(WorkloadRequest(AddWorkload{"u", PodName{"a", "b", "c"}}))) ==
        "0a0e0a01751209"
        "0a01611201621a0163");
}

TEST_CASE("every recorded packet of the real agent and proxy decodes and encodes to the same bytes") {
  size_t seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(ZT_GOLDEN_DIR "/zds")) {
    if (entry.path().extension() != ".binpb") continue;
    ++seen;
    const auto name = entry.path().filename().string();
    INFO(name);
    const auto bytes = testing::read_file(entry.path());
    if (name.find("ZdsHello") != std::string::npos) {
      const auto hello = decode_hello(bytes);
      REQUIRE(hello);
      CHECK(hex(encode(*hello)) == hex(bytes));
    } else if (name.find("ztunnel-to-agent") != std::string::npos) {
      const auto ack = decode_ack(bytes);
      REQUIRE(ack);
      CHECK(hex(encode(*ack)) == hex(bytes));
    } else {
      const auto request = decode_request(bytes);
      REQUIRE(request);
      CHECK(name.find(std::string("-") + std::string(request_kind(*request)) + ".") != std::string::npos);
      CHECK(hex(encode(*request)) == hex(bytes));
    }
  }
  CHECK(seen == 68);
}

TEST_CASE("requests decode") {
  struct Row {
    const char* name;
    const char* bytes;
    WorkloadRequest want;
  };
  const Row row = GENERATE(
      Row{"add without info", "0a030a0175", AddWorkload{"u", std::nullopt}},
      Row{"add with an empty info", "0a050a01751200", AddWorkload{"u", PodName{}}},
      Row{"add with the reserved trust domain field", "0a0a0a0175 1205 0a0161 2200", AddWorkload{"u", PodName{"a", "", ""}}},
      Row{"fields in any order", "0a0a 1205 0a0161 1200 0a0175", AddWorkload{"u", PodName{"a", "", ""}}},
      Row{"del reads field 2, not 1", "1206 0a0178 120175", DelWorkload{"u"}}, Row{"an empty uid", "1200", DelWorkload{""}},
      Row{"a field of the wrong type is an unknown one", "0a020801", AddWorkload{"", std::nullopt}},
      Row{"unknown number, fixed32, fixed64, bytes fields are skipped",
          "c03e05 cd3e01020304 c93e0102030405060708 ca3e03ffffff 1a00", SnapshotSent{}},
      Row{"unknown fields inside a member are skipped", "2a05 0a0175 1863", KeepWorkload{"u"}},
      Row{"unknown groups are skipped, nested ones too", "c33e 1a00 cb3e d003 7f cc3e c43e 1a00", SnapshotSent{}},
      Row{"the last member of the oneof wins", "1a00 2a030a0175", KeepWorkload{"u"}},
      Row{"the same member twice is merged", "0a030a0175 0a07 1205 0a0161 1200", AddWorkload{"u", PodName{"a", "", ""}}},
      Row{"text may be any UTF-8", "2a0b 0a09 c3a4e282acf0908c82", KeepWorkload{"\xc3\xa4\xe2\x82\xac\xf0\x90\x8c\x82"}});
  INFO(row.name);
  const auto request = decode_request(unhex(row.bytes));
  INFO(error_text(request));
  REQUIRE(request);
  CHECK(*request == row.want);
}

TEST_CASE("malformed requests are refused") {
  struct Row {
    const char* name;
    std::string bytes;
    const char* why;
  };
  const Row row = GENERATE(
      Row{"nothing", "", "without payload"}, Row{"only unknown fields", unhex("2200"), "without payload"},
      Row{"a tag cut short", unhex("8a"), "malformed"}, Row{"a length cut short", unhex("0a80"), "malformed"},
      Row{"a length past the end", unhex("0a050a0175"), "malformed"},
      Row{"a length of 2^64-1", unhex("0affffffffffffffffff01"), "malformed"},
      Row{"an inner length past its member", unhex("0a030a0475"), "malformed"},
      Row{"a number of 11 bytes", unhex("08ffffffffffffffffffff01"), "malformed"},
      Row{"a number over 64 bits", unhex("08ffffffffffffffffff02"), "without payload"},
      Row{"field number 0", unhex("0200"), "malformed"}, Row{"field number over 2^29", unhex("8280808010 00"), "malformed"},
      Row{"wire type 6", unhex("0e"), "malformed"}, Row{"wire type 7", unhex("0f"), "malformed"},
      Row{"add as a number", unhex("0801"), "without payload"},
      Row{"snapshot_sent as fixed32", unhex("1d00000000"), "without payload"},
      Row{"uid not UTF-8", unhex("0a030a01ff"), "malformed"},
      Row{"uid with an overlong character", unhex("2a040a02c080"), "malformed"},
      Row{"uid with a surrogate", unhex("2a050a03eda080"), "malformed"},
      Row{"uid beyond Unicode", unhex("2a060a04f4908080"), "malformed"},
      Row{"uid with half a character", unhex("2a030a01c3"), "malformed"},
      Row{"garbage inside snapshot_sent", unhex("1a01ff"), "malformed"},
      Row{"a group that does not end", unhex("c33e1a00"), "malformed"},
      Row{"a group end without start", unhex("c43e"), "malformed"},
      Row{"a group ended by another number", unhex("c33ecc3e"), "malformed"},
      Row{"a thousand groups in one another", std::string(1000, '\x33') + std::string(1000, '\x34'), "exceeds"},
      Row{"groups in one another beyond what protobuf bears", std::string(500, '\x33') + std::string(500, '\x34'), "malformed"},
      Row{"1025 bytes", encode(WorkloadRequest(KeepWorkload{std::string(1019, 'u')})), "exceeds the limit of 1024"});
  INFO(row.name);
  const auto request = decode_request(row.bytes);
  REQUIRE_FALSE(request);
  CHECK(request.error().reason == Reason::kInvalidInput);
  CHECK_THAT(request.error().text, Catch::Contains(row.why));
}

TEST_CASE("hellos and acks are checked as well") {
  CHECK_THAT(error_text(decode_hello("")), Catch::Contains("version 0 is not supported"));
  CHECK_THAT(error_text(decode_hello(unhex("0802"))), Catch::Contains("version 2 is not supported"));
  CHECK_THAT(error_text(decode_hello(unhex("0a00"))), Catch::Contains("version 0 is not supported"));
  CHECK(decode_hello(unhex("120008011a00")));
  CHECK_THAT(error_text(decode_ack("")), Catch::Contains("without payload"));
  CHECK_THAT(error_text(decode_ack(unhex("0a010a"))), Catch::Contains("malformed"));
  CHECK(decode_ack(unhex("0a0210051a00"))->error.empty());
}

TEST_CASE("an ack's text is cut on a character boundary and made valid UTF-8") {
  const auto round_trip = [](const std::string& text) { return decode_ack(encode(WorkloadAck{text}))->error; };
  CHECK(round_trip(std::string(5000, 'x')) == std::string(kMaxAckText, 'x'));
  CHECK(round_trip(std::string(kMaxAckText - 1, 'x') + "\xe2\x82\xac") == std::string(kMaxAckText - 1, 'x'));
  CHECK(round_trip("a\xff\xc3(") ==
        "a?"
        "?(");
  CHECK(encode(WorkloadAck{std::string(5000, 'x')}).size() <= kMaxZdsMessage);
}
