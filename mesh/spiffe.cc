#include "mesh/spiffe.h"

#include <algorithm>

#include "mesh/reason.h"

namespace zt {
namespace {

constexpr std::string_view kNamespace = "/ns/";
constexpr std::string_view kAccount = "/sa/";
constexpr size_t kMaxQuotedBytes = 120;  // of a refused id in an error text
constexpr std::string_view kForm = "expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>";

// The refused text comes from a peer or a file: bounded and printable, so that it can go into a log line.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxQuotedBytes)) out += (c >= 0x20 && c < 0x7f && c != '"') ? c : '?';
  if (text.size() > kMaxQuotedBytes) out += "…";
  return out + '"';
}

std::unexpected<Error> refuse(std::string_view text, std::string_view why) {
  return fail(Reason::kInvalidInput, "not a SPIFFE id of a workload: " + quoted(text) + ": " + std::string(why));
}

bool visible_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

// Takes what stands before the first slash, and then `mark`, which begins with it, from `rest`.
bool take_part(std::string_view& rest, std::string_view mark, std::string_view& part) {
  const size_t slash = rest.find('/');
  if (slash == std::string_view::npos || !rest.substr(slash).starts_with(mark)) return false;
  part = rest.substr(0, slash);
  rest.remove_prefix(slash + mark.size());
  return true;
}

}  // namespace

Result<SpiffeView> SpiffeView::parse(std::string_view id) {
  if (id.size() > kMaxSpiffeIdBytes) return refuse(id, "longer than " + std::to_string(kMaxSpiffeIdBytes) + " bytes");
  if (!id.starts_with(kSpiffeScheme)) return refuse(id, "does not begin with spiffe://");
  if (!visible_ascii(id)) return refuse(id, "holds a space, a control character or a non-ASCII byte");
  SpiffeView view;
  view.principal = id.substr(kSpiffeScheme.size());
  std::string_view rest = view.principal;
  if (!take_part(rest, kNamespace, view.trust_domain) || !take_part(rest, kAccount, view.ns)) return refuse(id, kForm);
  if (rest.find('/') != std::string_view::npos) return refuse(id, kForm);
  view.service_account = rest;
  if (view.trust_domain.empty() || view.ns.empty() || view.service_account.empty()) return refuse(id, "a part is empty");
  return view;
}

const char* identity_part_fault(std::string_view text) {
  if (text.empty()) return "is empty, and no part of an identity is";
  if (text.starts_with(kSpiffeScheme)) return "begins with \"spiffe://\", which is no part of it";
  if (text.find('/') != std::string_view::npos) return "has a slash in it, and no part of an identity has";
  if (!visible_ascii(text)) return "has a character in it that no identity has (only visible ASCII)";
  return nullptr;
}

void append_spiffe_id(std::string& out, std::string_view trust_domain, std::string_view ns, std::string_view service_account) {
  out.append(kSpiffeScheme).append(trust_domain).append(kNamespace).append(ns).append(kAccount).append(service_account);
}

std::string spiffe_id(std::string_view trust_domain, std::string_view ns, std::string_view service_account) {
  std::string out;
  out.reserve(kSpiffeScheme.size() + trust_domain.size() + kNamespace.size() + ns.size() + kAccount.size() +
              service_account.size());
  append_spiffe_id(out, trust_domain, ns, service_account);
  return out;
}

}  // namespace zt
