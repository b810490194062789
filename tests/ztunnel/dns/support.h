#pragma once
#include <catch2/catch.hpp>
#include <string>
#include <string_view>

#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_source.h"
#include "ztunnel/dns/message.h"
#include "ztunnel/dns/resolve.h"

namespace zt::ztunnel::dns::test {

inline Bytes unhex(std::string_view text) {
  Bytes bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

inline std::string hex(View bytes) {
  std::string text;
  for (const uint8_t byte : bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

struct Ask {
  uint16_t type = ns_t_a;
  uint16_t flags = flag::kRecursionDesired;
  std::optional<uint16_t> edns = {};  // payload size
  bool dnssec_ok = false;
  uint16_t id = 0x1234;
};

// A query; letters of the name are kept.
inline Bytes ask(std::string_view name, const Ask& how = {}) {
  Bytes bytes;
  const auto put16 = [&](uint16_t value) {
    bytes.push_back(static_cast<uint8_t>(value >> 8));
    bytes.push_back(static_cast<uint8_t>(value));
  };
  for (const uint16_t value : {how.id, how.flags, uint16_t{1}, uint16_t{0}, uint16_t{0}, how.edns ? uint16_t{1} : uint16_t{0}})
    put16(value);
  uint8_t wire[NS_MAXCDNAME];
  REQUIRE(ns_name_pton(std::string(name).c_str(), wire, sizeof wire) >= 0);
  size_t size = 0;
  while (wire[size] != 0) size += wire[size] + 1u;
  bytes.insert(bytes.end(), wire, wire + size + 1);
  put16(how.type);
  put16(ns_c_in);
  if (how.edns) {
    bytes.push_back(0);
    put16(ns_t_opt);
    put16(*how.edns);
    put16(0);
    put16(how.dnssec_ok ? 0x8000 : 0);
    put16(0);
  }
  return bytes;
}

inline workload_api::SnapshotPtr mesh(std::string_view yaml) {
  auto batch = workload_api::parse_local_config(yaml, "test.yaml");
  if (!batch) FAIL(batch.error().text);
  workload_api::Store store({});
  for (const auto& rejected : store.apply(std::move(*batch))) FAIL(rejected.name << ": " << rejected.why);
  return store.snapshot();
}

// The answer as text, a record a word: "NOERROR aa x.example. A 10.0.0.1". Independent of the code under test: glibc reads it.
inline std::string describe(View answer) {
  ns_msg parsed;
  if (ns_initparse(answer.data(), static_cast<int>(answer.size()), &parsed) != 0) return "malformed";
  constexpr std::string_view kRcodes[] = {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"};
  const int rcode = ns_msg_getflag(parsed, ns_f_rcode);
  std::string text(rcode < 6 ? kRcodes[rcode] : "rcode");
  if (ns_msg_getflag(parsed, ns_f_aa)) text += " aa";
  if (ns_msg_getflag(parsed, ns_f_tc)) text += " tc";
  for (int i = 0; i < ns_msg_count(parsed, ns_s_an); ++i) {
    ns_rr record;
    REQUIRE(ns_parserr(&parsed, ns_s_an, i, &record) == 0);
    text += std::string(" ") + ns_rr_name(record) + " ";
    const View data(ns_rr_rdata(record), ns_rr_rdlen(record));
    char name[NS_MAXDNAME] = "";
    const auto expand = [&](size_t at) {
      REQUIRE(ns_name_uncompress(answer.data(), answer.data() + answer.size(), data.data() + at, name, sizeof name) >= 0);
      return std::string(name);
    };
    switch (ns_rr_type(record)) {
      case ns_t_a:
      case ns_t_aaaa: text += IpAddress::from_bytes(data)->to_string(); break;
      case ns_t_cname: text += "CNAME " + expand(0); break;
      case ns_t_ptr: text += "PTR " + expand(0); break;
      case ns_t_srv: text += "SRV " + std::to_string(read16(data, 4)) + " " + expand(6); break;
      default: text += "?";
    }
  }
  return text;
}

}  // namespace zt::ztunnel::dns::test
