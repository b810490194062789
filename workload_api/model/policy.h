#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "base/address.h"
#include "mesh/spiffe.h"
#include "workload_api/model/model.h"

namespace zt::workload_api {

// What a policy looks at. Without a peer identity (plain text) all identity parts are empty (§5.3).
struct PolicySubject {
  IpAddress source_ip;
  SocketAddress destination;  // the address we will connect to, never the VIP
  SpiffeView peer;            // by mutual TLS; all empty for a plaintext peer
};

// The rules of one Authorization, prepared once so that matching allocates nothing and long lists are
// searched, not walked. Immutable; any thread.
class PolicyMatcher {
 public:
  PolicyMatcher() = default;
  explicit PolicyMatcher(const std::vector<PolicyRule>& rules);
  [[nodiscard]] bool matches(const PolicySubject& subject) const;

 private:
  // Texts of one field: presence, else exact ones by binary search, then prefixes and suffixes one by one.
  struct Texts {
    bool presence = false;
    std::vector<Str> exact, prefixes, suffixes;
    explicit Texts(const std::vector<StringMatch>& matches);
    [[nodiscard]] bool contains(std::string_view text) const;
  };
  struct Accounts {
    std::vector<ServiceAccountMatch> sorted;
    explicit Accounts(std::vector<ServiceAccountMatch> matches);
    [[nodiscard]] bool contains(std::string_view ns, std::string_view service_account) const;
  };
  // Address blocks as sorted ranges that do not overlap, by binary search. IPv4 sorts before IPv6 and no
  // range spans both.
  struct Addresses {
    struct Point {  // not an IpAddress: the end of an IPv6 block may look v4-mapped
      bool v6 = false;
      std::array<uint8_t, 16> bytes{};
      friend auto operator<=>(const Point&, const Point&) = default;
    };
    struct Range {
      Point first, last;
    };
    std::vector<Range> ranges;
    explicit Addresses(const std::vector<Cidr>& blocks);
    [[nodiscard]] bool contains(const IpAddress& ip) const;
    static Point point(const IpAddress& ip);
  };
  struct Ports {
    std::vector<uint16_t> sorted;
    explicit Ports(std::vector<uint16_t> ports);
    [[nodiscard]] bool contains(uint16_t port) const;
  };

  enum class Field : uint8_t { kNamespace, kServiceAccount, kPrincipal, kSourceIp, kDestinationIp, kDestinationPort };
  using Values = std::variant<Texts, Accounts, Addresses, Ports>;
  struct Term {  // the field's value is among `values` (or, negated, is not)
    Field field;
    bool negated;
    Values values;
  };
  using Match = std::vector<Term>;
  struct Clause {
    bool always = false;  // it has no matches at all, as opposed to none that could ever hold
    std::vector<Match> matches;
  };
  using Rule = std::vector<Clause>;

  static Match compile(const PolicyMatch& match);
  static bool holds(const Term& term, const PolicySubject& subject);

  std::vector<Rule> rules_;
};

// A policy as the store keeps it.
struct Policy : RefCounted {
  Ref<const Authorization> spec;
  PolicyMatcher matcher;

  explicit Policy(Ref<const Authorization> authorization) : spec(std::move(authorization)), matcher(spec->rules) {}
};
using PolicyPtr = Ref<const Policy>;

}  // namespace zt::workload_api
