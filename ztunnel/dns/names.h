#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"

// Names as clients ask for them, and the host names of services that they may mean (contract §9.3). Pure; all names are in lower
// case and without the last dot.
namespace zt::ztunnel::dns {

// What a client's short names are completed with.
struct NameRules {
  std::string ns;              // the client's
  std::string cluster_domain;  // "cluster.local"
  std::vector<std::string> search;

  // Of a pod: those that Kubernetes gives it.
  [[nodiscard]] static NameRules of_pod(std::string_view ns, std::string_view cluster_domain);
};

// A host name that a queried name may stand for.
struct Alias {
  std::string_view host;
  // Not empty: the name without the search domain that a resolver has added to it. The answer has to say so (CNAME).
  std::string_view stripped = {};
};

// Calls visit(const Alias&) for each, the likeliest first, until it returns true; returns whether it did. `host` is valid during
// the call.
template <class Visit>
bool for_each_alias(std::string_view name, const NameRules& rules, Visit&& visit);

// Calls visit(std::string_view) for "*.rest" with one label of `host` after the other taken off, the longest first, until it
// returns true.
template <class Visit>
bool for_each_wildcard(std::string_view host, Visit&& visit);

[[nodiscard]] size_t label_count(std::string_view name);
// The name without its first label; empty if there is but one.
[[nodiscard]] std::string_view without_first_label(std::string_view name);

// The address of a reverse name, "4.3.2.1.in-addr.arpa" or 32 digits under ip6.arpa.
[[nodiscard]] std::optional<IpAddress> reverse_address(std::string_view name);

// What Kubernetes calls an endpoint that has no name of its own: "10-1-2-3", and "2001-db8--1".
[[nodiscard]] std::string dashed(const IpAddress& ip);
[[nodiscard]] std::optional<IpAddress> parse_dashed(std::string_view label);

// ---- Implementation of the templates

namespace detail {

// The short forms of Kubernetes: svc, svc.ns, svc.ns.svc.
template <class Visit>
bool for_each_expansion(std::string_view name, const NameRules& rules, Visit&& visit) {
  const size_t labels = label_count(name);
  if (labels > 4) return false;
  const bool has_svc = name.ends_with(".svc");
  std::string host;
  const auto with = [&](std::initializer_list<std::string_view> suffixes) {
    host.assign(name);
    for (const auto suffix : suffixes) {
      host += '.';
      host += suffix;
    }
    return visit(std::string_view(host));
  };
  const std::string_view domain = rules.cluster_domain;
  if (labels >= 3 && has_svc && with({domain})) return true;
  if ((labels == 2 || labels == 3) && with({"svc", domain})) return true;
  return labels <= 2 && with({rules.ns, "svc", domain});
}

}  // namespace detail

template <class Visit>
bool for_each_alias(std::string_view name, const NameRules& rules, Visit&& visit) {
  if (visit(Alias{name})) return true;
  if (detail::for_each_expansion(name, rules, [&](std::string_view host) { return visit(Alias{host}); })) return true;
  for (const auto& domain : rules.search) {
    if (name.size() <= domain.size() + 1 || !name.ends_with(domain) || name[name.size() - domain.size() - 1] != '.') continue;
    const std::string_view stripped = name.substr(0, name.size() - domain.size() - 1);
    if (visit(Alias{stripped, stripped})) return true;
    if (detail::for_each_expansion(stripped, rules, [&](std::string_view host) { return visit(Alias{host, stripped}); }))
      return true;
  }
  return false;
}

template <class Visit>
bool for_each_wildcard(std::string_view host, Visit&& visit) {
  std::string wildcard;
  for (auto rest = without_first_label(host); !rest.empty(); rest = without_first_label(rest)) {
    wildcard.assign("*.");
    wildcard += rest;
    if (visit(std::string_view(wildcard))) return true;
  }
  return false;
}

}  // namespace zt::ztunnel::dns
