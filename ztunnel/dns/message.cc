#include "ztunnel/dns/message.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

namespace zt::ztunnel::dns {

namespace {

constexpr uint16_t kTypeOpt = ns_t_opt;
constexpr size_t kOptBytes = 11;
constexpr uint32_t kDnssecOk = 0x8000;

uint8_t lower(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? static_cast<uint8_t>(byte | 0x20) : byte; }

// Length of the uncompressed name at the front of `bytes`, the root included; 0 if it is none.
size_t name_bytes(View bytes) {
  size_t at = 0;
  while (at < bytes.size() && at < NS_MAXCDNAME) {
    const size_t label = bytes[at];
    if (label == 0) return at + 1;
    if (label > NS_MAXLABEL) return 0;  // a pointer: nothing comes before the first name that it could point to
    at += label + 1;
  }
  return 0;
}

}  // namespace

Query::Query(View message) : message_(message) {
  if (message.size() < kHeaderBytes || message.size() > kMaxMessageBytes || (flags() & flag::kResponse) != 0) return;
  kind_ = read();
}

Query::Kind Query::read() {
  if ((flags() & flag::kOpcode) != 0) return Kind::kForward;
  ns_msg parsed;
  if (ns_initparse(message_.data(), static_cast<int>(message_.size()), &parsed) != 0) return Kind::kRefuse;
  const auto count = ns_msg_count(parsed, ns_s_qd);
  if (count != 1) {
    const View rest = message_.subspan(kHeaderBytes);
    if (count > 0) {
      const int size = ns_skiprr(rest.data(), rest.data() + rest.size(), ns_s_qd, count);
      if (size > 0) questions_ = rest.first(static_cast<size_t>(size));
    }
    refusal_ = Rcode::kServFail;  // the peer's answer
    return Kind::kRefuse;
  }
  const size_t name = name_bytes(message_.subspan(kHeaderBytes));
  if (name == 0) return Kind::kRefuse;
  questions_ = message_.subspan(kHeaderBytes, name + NS_QFIXEDSZ);
  if (ns_name_ntop(questions_.data(), name_, sizeof name_) < 0) return Kind::kRefuse;
  name_size_ = std::strlen(name_);
  for (char& c : std::span(name_, name_size_)) c = static_cast<char>(lower(static_cast<uint8_t>(c)));
  type_ = read16(questions_, name);
  for (int i = 0; i < ns_msg_count(parsed, ns_s_ar); ++i) {
    ns_rr record;
    if (ns_parserr(&parsed, ns_s_ar, i, &record) != 0) return Kind::kRefuse;
    if (ns_rr_type(record) != kTypeOpt) continue;
    const uint32_t extended = ns_rr_ttl(record);
    edns_ = Edns{.payload = static_cast<uint16_t>(ns_rr_class(record)),
                 .version = static_cast<uint8_t>(extended >> 16),
                 .dnssec_ok = (extended & kDnssecOk) != 0};
    break;
  }
  return Kind::kQuestion;
}

size_t Query::udp_limit() const { return edns_ ? std::max<size_t>(edns_->payload, kPlainUdpBytes) : kPlainUdpBytes; }

std::string_view type_name(uint16_t type) {
  switch (type) {
    case ns_t_a: return "a";
    case ns_t_ns: return "ns";
    case ns_t_cname: return "cname";
    case ns_t_soa: return "soa";
    case ns_t_ptr: return "ptr";
    case ns_t_hinfo: return "hinfo";
    case ns_t_mx: return "mx";
    case ns_t_txt: return "txt";
    case ns_t_aaaa: return "aaaa";
    case ns_t_srv: return "srv";
    case ns_t_naptr: return "naptr";
    case ns_t_ds: return "ds";
    case ns_t_rrsig: return "rrsig";
    case ns_t_nsec: return "nsec";
    case ns_t_dnskey: return "dnskey";
    case ns_t_nsec3: return "nsec3";
    case ns_t_tlsa: return "tlsa";
    case 64: return "svcb";
    case 65: return "https";
    case ns_t_axfr: return "axfr";
    case ns_t_ixfr: return "ixfr";
    case ns_t_any: return "any";
    case ns_t_caa: return "caa";
    default: return "other";
  }
}

AnswerWriter::AnswerWriter(const Query& query, uint16_t flags, size_t limit, Bytes& out)
    : query_(query), limit_(limit - (query.edns() ? kOptBytes : 0)), out_(out) {
  constexpr uint16_t kKept = flag::kOpcode | flag::kRecursionDesired | flag::kCheckingDisabled;
  out_.clear();
  put16(query.id());
  put16(static_cast<uint16_t>(flags | flag::kResponse | (query.flags() & kKept)));
  put16(query.questions().empty() ? 0 : read16(query.message(), 4));
  for (int section = 0; section < 3; ++section) put16(0);
  put(query.questions());
}

template <class Data>
void AnswerWriter::record(View owner, uint16_t type, uint32_t ttl, Data&& data) {
  if (truncated_) return;
  const size_t before = out_.size();
  const size_t targets_before = target_count_;
  put_name(owner);
  put16(type);
  put16(ns_c_in);
  put32(ttl);
  const size_t length_at = out_.size();
  put16(0);
  data();
  if (out_.size() > limit_) {
    out_.resize(before);
    target_count_ = targets_before;
    truncated_ = true;
    return;
  }
  write16(out_, length_at, static_cast<uint16_t>(out_.size() - length_at - NS_INT16SZ));
  ++answers_;
}

void AnswerWriter::put_name(View name) {
  for (size_t at = 0; name[at] != 0; at += name[at] + 1u) {
    const auto end = targets_.begin() + target_count_;
    const auto found = std::find_if(targets_.begin(), end, [&](uint16_t offset) { return is_at(offset, name.subspan(at)); });
    if (found != end) return put16(static_cast<uint16_t>(NS_CMPRSFLGS << 8 | *found));
    constexpr size_t kFurthest = 0x3fff;
    if (target_count_ < targets_.size() && out_.size() <= kFurthest)
      targets_[target_count_++] = static_cast<uint16_t>(out_.size());
    put(name.subspan(at, name[at] + 1u));
  }
  out_.push_back(0);
}

// All pointers that are followed here are ours, and lead backwards. The name being written may end before it is compared to the end.
bool AnswerWriter::is_at(size_t offset, View name) const {
  for (size_t at = 0;;) {
    while (offset < out_.size() && (out_[offset] & NS_CMPRSFLGS) == NS_CMPRSFLGS) offset = read16(out_, offset) & 0x3fff;
    const size_t label = name[at] + 1u;
    if (offset + label > out_.size()) return false;
    if (!std::equal(name.begin() + static_cast<ptrdiff_t>(at), name.begin() + static_cast<ptrdiff_t>(at + label),
                    out_.begin() + static_cast<ptrdiff_t>(offset))) {
      return false;
    }
    if (label == 1) return true;
    at += label;
    offset += label;
  }
}

void AnswerWriter::address(View owner, const IpAddress& ip, uint32_t ttl) {
  record(owner, ip.is_v4() ? ns_t_a : ns_t_aaaa, ttl, [&] { put(ip.bytes()); });
}

void AnswerWriter::name(View owner, uint16_t type, View target, uint32_t ttl) {
  record(owner, type, ttl, [&] { put_name(target); });
}

void AnswerWriter::service(View owner, uint16_t port, View target, uint32_t ttl) {
  constexpr uint16_t kPriority = 0, kWeight = 100;  // as CoreDNS has them
  record(owner, ns_t_srv, ttl, [&] {
    for (const uint16_t value : {kPriority, kWeight, port}) put16(value);
    put(target);  // RFC 2782: not compressed
  });
}

void AnswerWriter::finish() {
  write16(out_, 6, answers_);
  if (truncated_) write16(out_, 2, read16(out_, 2) | flag::kTruncated);
  const auto& edns = query_.edns();
  if (!edns) return;
  write16(out_, 10, 1);
  out_.push_back(0);  // the root
  put16(kTypeOpt);
  put16(static_cast<uint16_t>(query_.udp_limit()));
  put32(static_cast<uint32_t>(edns->version) << 16 | (edns->dnssec_ok ? kDnssecOk : 0));
  put16(0);
}

void AnswerWriter::put16(uint16_t value) {
  out_.push_back(static_cast<uint8_t>(value >> 8));
  out_.push_back(static_cast<uint8_t>(value));
}

void AnswerWriter::put32(uint32_t value) {
  put16(static_cast<uint16_t>(value >> 16));
  put16(static_cast<uint16_t>(value));
}

void write_error(const Query& query, Rcode rcode, Bytes& out) {
  AnswerWriter answer(query, static_cast<uint16_t>(rcode), kMaxMessageBytes, out);
  answer.finish();
}

Bytes wire_name(std::string_view text) {
  uint8_t wire[NS_MAXCDNAME];
  if (ns_name_pton(std::string(text).c_str(), wire, sizeof wire) < 0) return {};
  const size_t size = name_bytes(wire);
  Bytes name(wire, wire + size);
  lower_case(name);
  return name;
}

// Lengths of labels are below 'A', so they stay.
void lower_case(std::span<uint8_t> wire) {
  static_assert(NS_MAXLABEL < 'A');
  for (uint8_t& byte : wire) byte = lower(byte);
}

bool answers(View response, View query, uint16_t id) {
  if (response.size() < kHeaderBytes || read16(response, 0) != id) return false;
  const uint16_t flags = read16(response, 2);
  if ((flags & flag::kResponse) == 0 || (flags & flag::kOpcode) != (read16(query, 2) & flag::kOpcode)) return false;
  const uint16_t asked = read16(query, 4);
  const uint16_t repeated = read16(response, 4);
  if (repeated == 0 && asked != 0) {
    const auto rcode = static_cast<Rcode>(flags & flag::kRcode);
    return rcode != Rcode::kNoError && rcode != Rcode::kNxDomain;
  }
  if (repeated != asked) return false;
  const View rest = query.subspan(kHeaderBytes);
  const int bytes = asked == 0 ? 0 : ns_skiprr(rest.data(), rest.data() + rest.size(), ns_s_qd, asked);
  if (bytes < 0) return response.size() >= query.size();  // not ours to read; the id and the port have to do
  const auto size = static_cast<size_t>(bytes);
  if (response.size() < kHeaderBytes + size) return false;
  // Some servers lose the letters' case. Whoever asked with odd ones will see that for himself.
  return std::ranges::equal(rest.first(size), response.subspan(kHeaderBytes, size),
                            [](uint8_t a, uint8_t b) { return lower(a) == lower(b); });
}

std::optional<Lifetime> lifetime(View response) {
  constexpr uint32_t kLongest = 3600;
  if (response.size() < kHeaderBytes) return std::nullopt;
  const uint16_t flags = read16(response, 2);
  const auto rcode = static_cast<Rcode>(flags & flag::kRcode);
  if ((flags & flag::kTruncated) != 0 || (rcode != Rcode::kNoError && rcode != Rcode::kNxDomain)) return std::nullopt;
  ns_msg parsed;
  if (ns_initparse(response.data(), static_cast<int>(response.size()), &parsed) != 0) return std::nullopt;
  Lifetime life{.seconds = kLongest, .ttl_offsets = {}};
  const bool negative = ns_msg_count(parsed, ns_s_an) == 0;
  bool authority = false;  // a negative answer is kept for as long as the zone says, and not at all if it says nothing
  for (const ns_sect section : {ns_s_an, ns_s_ns, ns_s_ar}) {
    for (int i = 0; i < ns_msg_count(parsed, section); ++i) {
      ns_rr record;
      if (ns_parserr(&parsed, section, i, &record) != 0) return std::nullopt;
      if (ns_rr_type(record) == kTypeOpt) continue;
      if (ns_rr_type(record) == ns_t_tsig || ns_rr_type(record) == ns_t_sig) return std::nullopt;  // for one asker
      uint32_t ttl = std::min<uint32_t>(ns_rr_ttl(record), INT32_MAX);
      if (section == ns_s_ns && ns_rr_type(record) == ns_t_soa && ns_rr_rdlen(record) >= NS_INT32SZ) {
        authority = true;
        if (negative)
          ttl = std::min(ttl, static_cast<uint32_t>(ns_get32(ns_rr_rdata(record) + ns_rr_rdlen(record) - NS_INT32SZ)));
      }
      life.seconds = std::min(life.seconds, ttl);
      life.ttl_offsets.push_back(static_cast<uint16_t>(ns_rr_rdata(record) - response.data() - NS_INT16SZ - NS_INT32SZ));
    }
  }
  if (life.seconds == 0 || life.ttl_offsets.empty() || (negative && !authority)) return std::nullopt;
  return life;
}

bool says_nothing(View response) {
  if (response.size() < kHeaderBytes) return false;
  const auto rcode = static_cast<Rcode>(read16(response, 2) & flag::kRcode);
  return rcode == Rcode::kNxDomain || (rcode == Rcode::kNoError && read16(response, 6) == 0);
}

}  // namespace zt::ztunnel::dns
