#include "workload_api/model/policy.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

namespace zt::workload_api {

PolicyMatcher::Texts::Texts(const std::vector<StringMatch>& matches) {
  for (const StringMatch& match : matches) {
    switch (match.kind) {
      case StringMatch::Kind::kExact: exact.push_back(match.value); break;
      case StringMatch::Kind::kPrefix: prefixes.push_back(match.value); break;
      case StringMatch::Kind::kSuffix: suffixes.push_back(match.value); break;
      case StringMatch::Kind::kPresence: presence = true; break;
    }
  }
  std::ranges::sort(exact);
}

bool PolicyMatcher::Texts::contains(std::string_view text) const {
  if (presence && !text.empty()) return true;
  if (std::ranges::binary_search(exact, text, {}, &Str::view)) return true;
  if (std::ranges::any_of(prefixes, [&](const Str& prefix) { return text.starts_with(prefix.view()); })) return true;
  return std::ranges::any_of(suffixes, [&](const Str& suffix) { return text.ends_with(suffix.view()); });
}

PolicyMatcher::Accounts::Accounts(std::vector<ServiceAccountMatch> matches) : sorted(std::move(matches)) {
  std::ranges::sort(sorted, [](const auto& a, const auto& b) {
    return std::pair(a.ns.view(), a.service_account.view()) < std::pair(b.ns.view(), b.service_account.view());
  });
}

bool PolicyMatcher::Accounts::contains(std::string_view ns, std::string_view service_account) const {
  return std::ranges::binary_search(sorted, std::pair(ns, service_account), {},
                                    [](const auto& match) { return std::pair(match.ns.view(), match.service_account.view()); });
}

PolicyMatcher::Addresses::Point PolicyMatcher::Addresses::point(const IpAddress& ip) {
  Point point{.v6 = ip.is_v6(), .bytes = {}};
  std::ranges::copy(ip.bytes(), point.bytes.begin());
  return point;
}

PolicyMatcher::Addresses::Addresses(const std::vector<Cidr>& blocks) {
  for (const Cidr& block : blocks) {
    Range range{point(block.base), point(block.base)};
    for (size_t bit = block.prefix_length; bit < block.base.bytes().size() * 8; ++bit) {
      const auto mask = static_cast<uint8_t>(0x80u >> (bit % 8));
      range.first.bytes[bit / 8] &= static_cast<uint8_t>(~mask);
      range.last.bytes[bit / 8] |= mask;
    }
    ranges.push_back(range);
  }
  // A longer block after a shorter one with the same start; blocks either nest or are disjoint, so one that
  // overlaps the last kept lies wholly inside it.
  std::ranges::sort(ranges,
                    [](const Range& a, const Range& b) { return a.first != b.first ? a.first < b.first : a.last > b.last; });
  std::vector<Range> kept;
  for (const Range& range : ranges)
    if (kept.empty() || kept.back().last < range.first) kept.push_back(range);
  ranges = std::move(kept);
}

bool PolicyMatcher::Addresses::contains(const IpAddress& ip) const {
  const Point wanted = point(ip);
  const auto after = std::ranges::upper_bound(ranges, wanted, {}, &Range::first);
  return after != ranges.begin() && wanted <= std::prev(after)->last;
}

PolicyMatcher::Ports::Ports(std::vector<uint16_t> ports) : sorted(std::move(ports)) { std::ranges::sort(sorted); }

bool PolicyMatcher::Ports::contains(uint16_t port) const { return std::ranges::binary_search(sorted, port); }

PolicyMatcher::Match PolicyMatcher::compile(const PolicyMatch& match) {
  Match terms;
  const auto add = [&]<class Values>(Field field, bool negated, const auto& values, std::in_place_type_t<Values> /*type*/) {
    if (!values.empty()) terms.push_back({field, negated, Values(values)});
  };
  constexpr std::in_place_type_t<Texts> kTexts;
  constexpr std::in_place_type_t<Accounts> kAccounts;
  constexpr std::in_place_type_t<Addresses> kAddresses;
  constexpr std::in_place_type_t<Ports> kPorts;
  // Cheapest first.
  add(Field::kDestinationPort, false, match.destination_ports, kPorts);
  add(Field::kDestinationPort, true, match.not_destination_ports, kPorts);
  add(Field::kSourceIp, false, match.source_ips, kAddresses);
  add(Field::kSourceIp, true, match.not_source_ips, kAddresses);
  add(Field::kDestinationIp, false, match.destination_ips, kAddresses);
  add(Field::kDestinationIp, true, match.not_destination_ips, kAddresses);
  add(Field::kNamespace, false, match.namespaces, kTexts);
  add(Field::kNamespace, true, match.not_namespaces, kTexts);
  add(Field::kServiceAccount, false, match.service_accounts, kAccounts);
  add(Field::kServiceAccount, true, match.not_service_accounts, kAccounts);
  add(Field::kPrincipal, false, match.principals, kTexts);
  add(Field::kPrincipal, true, match.not_principals, kTexts);
  return terms;
}

PolicyMatcher::PolicyMatcher(const std::vector<PolicyRule>& rules) {
  for (const PolicyRule& rule : rules) {
    Rule compiled;
    for (const PolicyClause& clause : rule) {
      Clause prepared{.always = clause.empty(), .matches = {}};
      for (const PolicyMatch& match : clause)
        if (Match terms = compile(match); !terms.empty()) prepared.matches.push_back(std::move(terms));
      compiled.push_back(std::move(prepared));
    }
    rules_.push_back(std::move(compiled));
  }
}

bool PolicyMatcher::holds(const Term& term, const PolicySubject& subject) {
  bool among = false;
  switch (term.field) {
    case Field::kNamespace: among = std::get<Texts>(term.values).contains(subject.peer.ns); break;
    case Field::kServiceAccount:
      // Only an authenticated peer has an account, so an entry with empty parts cannot match a plaintext one.
      among = !subject.peer.principal.empty() &&
              std::get<Accounts>(term.values).contains(subject.peer.ns, subject.peer.service_account);
      break;
    case Field::kPrincipal:
      among = !subject.peer.principal.empty() && std::get<Texts>(term.values).contains(subject.peer.principal);
      break;
    case Field::kSourceIp: among = std::get<Addresses>(term.values).contains(subject.source_ip); break;
    case Field::kDestinationIp: among = std::get<Addresses>(term.values).contains(subject.destination.ip); break;
    case Field::kDestinationPort: among = std::get<Ports>(term.values).contains(subject.destination.port); break;
  }
  return among != term.negated;
}

bool PolicyMatcher::matches(const PolicySubject& subject) const {
  const auto term_holds = [&](const Term& term) { return holds(term, subject); };
  const auto match_holds = [&](const Match& match) { return std::ranges::all_of(match, term_holds); };
  const auto clause_holds = [&](const Clause& clause) {
    return clause.always || std::ranges::any_of(clause.matches, match_holds);
  };
  return std::ranges::any_of(rules_, [&](const Rule& rule) { return std::ranges::all_of(rule, clause_holds); });
}

}  // namespace zt::workload_api
