#pragma once
#include <arpa/nameser.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/address.h"

// DNS messages (RFC 1035, 6891) as far as the proxy has to understand them. Reading is done by glibc's parser (ns_initparse and
// its kin): bounds-checked, in place, without allocation. What is forwarded is never written anew, so nothing that this file
// does not know can be lost on the way.
namespace zt::ztunnel::dns {

inline constexpr size_t kHeaderBytes = NS_HFIXEDSZ;
inline constexpr size_t kMaxMessageBytes = 65535;
inline constexpr size_t kPlainUdpBytes = NS_PACKETSZ;  // what a client without EDNS takes
inline constexpr size_t kMaxNameText = NS_MAXDNAME;

using Bytes = std::vector<uint8_t>;
using View = std::span<const uint8_t>;

enum class Rcode : uint8_t { kNoError = 0, kFormErr = 1, kServFail = 2, kNxDomain = 3, kNotImp = 4, kRefused = 5 };

namespace flag {
inline constexpr uint16_t kResponse = 0x8000, kAuthoritative = 0x0400, kTruncated = 0x0200, kRecursionDesired = 0x0100,
                          kRecursionAvailable = 0x0080, kCheckingDisabled = 0x0010, kOpcode = 0x7800, kRcode = 0x000f;
}

[[nodiscard]] inline uint16_t read16(View message, size_t at) {
  return static_cast<uint16_t>(message[at] << 8 | message[at + 1]);
}
inline void write16(std::span<uint8_t> message, size_t at, uint16_t value) {
  message[at] = static_cast<uint8_t>(value >> 8);
  message[at + 1] = static_cast<uint8_t>(value);
}

struct Edns {
  uint16_t payload = 0;  // as asked for
  uint8_t version = 0;
  bool dnssec_ok = false;
};

// A message from a client, and what is to be done with it. Views are into the message.
class Query {
 public:
  enum class Kind : uint8_t {
    kIgnore,   // shorter than a header, or a response: no answer
    kRefuse,   // an answer with refusal()
    kForward,  // an opcode other than QUERY: not ours to judge
    kQuestion  // one question
  };
  explicit Query(View message);

  [[nodiscard]] Kind kind() const { return kind_; }
  [[nodiscard]] Rcode refusal() const { return refusal_; }
  [[nodiscard]] View message() const { return message_; }
  [[nodiscard]] uint16_t id() const { return read16(message_, 0); }
  [[nodiscard]] uint16_t flags() const { return read16(message_, 2); }
  // The question section, byte for byte; empty if it could not be read.
  [[nodiscard]] View questions() const { return questions_; }

  // kQuestion only. The name in lower case and without the last dot; the root is ".". Bytes that are no part of a host name are
  // written with a backslash.
  [[nodiscard]] std::string_view name() const { return {name_, name_size_}; }
  [[nodiscard]] View wire_name() const { return questions_.first(questions_.size() - NS_QFIXEDSZ); }
  [[nodiscard]] uint16_t type() const { return type_; }
  [[nodiscard]] const std::optional<Edns>& edns() const { return edns_; }
  // The longest answer that a client takes over UDP.
  [[nodiscard]] size_t udp_limit() const;

 private:
  Kind read();

  View message_;
  View questions_;
  Kind kind_ = Kind::kIgnore;
  Rcode refusal_ = Rcode::kFormErr;
  uint16_t type_ = 0;
  std::optional<Edns> edns_;
  size_t name_size_ = 0;
  char name_[kMaxNameText];
};

// "a", "aaaa", "srv", …; "other" for what has no name here: a label of metrics that clients cannot multiply.
[[nodiscard]] std::string_view type_name(uint16_t type);

// ---- Answers of our own

// Appends records to an answer that is being made. Names are given as wire_name() makes them. As in the peer's answers, owners and
// the targets of CNAME and PTR are compressed against those that came before, but not against the question.
// `limit`: the whole message never becomes longer; what does not fit is left out, with all that follows.
class AnswerWriter {
 public:
  // Header and question of an answer to `query`; `flags` without id, opcode, RD and CD, which are the query's.
  AnswerWriter(const Query& query, uint16_t flags, size_t limit, Bytes& out);

  void address(View owner, const IpAddress& ip, uint32_t ttl);
  void name(View owner, uint16_t type, View target, uint32_t ttl);  // CNAME, PTR
  void service(View owner, uint16_t port, View target, uint32_t ttl);
  // Counts, TC, and the OPT record where the client sent one. Call once, last.
  void finish();

 private:
  // Writes one record, or takes it back because it does not fit.
  template <class Data>
  void record(View owner, uint16_t type, uint32_t ttl, Data&& data);
  void put_name(View name);
  [[nodiscard]] bool is_at(size_t offset, View name) const;
  void put16(uint16_t value);
  void put32(uint32_t value);
  void put(View bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }

  const Query& query_;
  size_t limit_;
  Bytes& out_;
  uint16_t answers_ = 0;
  bool truncated_ = false;
  // Where names and their parents begin that later ones may point to.
  std::array<uint16_t, 64> targets_;
  size_t target_count_ = 0;
};

// An answer without records: `rcode`, and neither AA nor RA, as the peer's.
void write_error(const Query& query, Rcode rcode, Bytes& out);

// A name as the wire has it, lower-cased; empty if it is none.
[[nodiscard]] Bytes wire_name(std::string_view text);
void lower_case(std::span<uint8_t> wire);

// ---- Answers of an upstream

// Whether `response` can be the answer to `query` (whose id upstream was `id`): it has that id, is a response with the same
// opcode, and repeats the question. A server that could not read the question may leave it out of an error.
[[nodiscard]] bool answers(View response, View query, uint16_t id);

// How long a response may be kept (RFC 2308), in seconds, and where the TTLs in it are, so that they can be counted down. Nothing:
// it may not be kept, because it is truncated, an error, has no TTL, or is not well-formed.
struct Lifetime {
  uint32_t seconds = 0;
  std::vector<uint16_t> ttl_offsets;
};
[[nodiscard]] std::optional<Lifetime> lifetime(View response);

// A response that says that the name, or records of that type of it, do not exist.
[[nodiscard]] bool says_nothing(View response);

}  // namespace zt::ztunnel::dns
