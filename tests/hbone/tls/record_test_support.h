#pragma once
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <string>

#include "hbone/tls/record_layer.h"
#include "mesh/reason.h"
#include "tests/hbone/tls/tls_test_support.h"

// Both ends of the record layer under one made-up secret, and what one end makes of the other's bytes.
namespace zt::hbone::testing {

using Kind = OpenedRecord::Kind;

inline constexpr CipherSuite kSuites[] = {CipherSuite::kAes128GcmSha256, CipherSuite::kAes256GcmSha384};

inline RecordState some_state(CipherSuite suite, bool from_server = true) {
  RecordState state;
  state.suite = suite;
  state.from_server = from_server;
  state.secret = TrafficSecret(Bytes(suite_hash_bytes(suite), 0x42));
  return state;
}

inline RecordSealer make_sealer(const RecordState& state) {
  auto made = RecordSealer::make(state);
  REQUIRE(made);
  return std::move(*made);
}

inline RecordOpener make_opener(const RecordState& state) {
  auto made = RecordOpener::make(state);
  REQUIRE(made);
  return std::move(*made);
}

inline Bytes seal(RecordSealer& sealer, const Bytes& content, ContentType type = ContentType::kApplicationData,
                  size_t padding = 0) {
  Bytes record(content.size() + kRecordOverhead + padding);
  std::ranges::copy(content, record.begin() + kRecordHeader);
  const auto sealed = sealer.seal_padded_in_place(record.data(), content.size(), padding, type);
  REQUIRE(sealed);
  CHECK(*sealed == record.size());
  return record;
}

inline Bytes seal_key_update(RecordSealer& sealer, bool request) {
  Bytes record(kKeyUpdateRecord);
  REQUIRE(sealer.seal_key_update(std::span(record).first<kKeyUpdateRecord>(), request));
  return record;
}

inline Bytes seal_alert(RecordSealer& sealer, Alert alert) {
  Bytes record(kAlertRecord);
  REQUIRE(sealer.seal_alert(std::span(record).first<kAlertRecord>(), alert));
  return record;
}

inline Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

inline Bytes counting(size_t size) {
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
inline Opened open_all(RecordOpener& opener, Bytes wire) {
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
    if (opened->kind == Kind::kData) result.data.insert(result.data.end(), opened->data.begin(), opened->data.end());
    rest = rest.subspan(opened->consumed);
  }
}

}  // namespace zt::hbone::testing
