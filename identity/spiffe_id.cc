#include "identity/spiffe_id.h"

#include <algorithm>
#include <array>

#include "mesh/reason.h"

namespace zt::identity {
namespace {

constexpr std::string_view kScheme = "spiffe://";
constexpr size_t kParts = 5;
constexpr size_t kMaxQuotedBytes = 120;  // of a refused id in an error text

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

}  // namespace

Result<SpiffeId> SpiffeId::parse(std::string_view text) {
  if (text.size() > kMaxSpiffeIdBytes) return refuse(text, "longer than " + std::to_string(kMaxSpiffeIdBytes) + " bytes");
  if (!text.starts_with(kScheme)) return refuse(text, "does not begin with spiffe://");
  if (!visible_ascii(text)) return refuse(text, "holds a space, a control character or a non-ASCII byte");

  std::array<std::string_view, kParts> parts;
  std::string_view rest = text.substr(kScheme.size());
  for (size_t i = 0; i < kParts; ++i) {
    const size_t slash = rest.find('/');
    const bool last = i + 1 == kParts;
    if (last != (slash == std::string_view::npos))
      return refuse(text, "expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>");
    parts[i] = rest.substr(0, slash);
    if (!last) rest.remove_prefix(slash + 1);
  }
  if (parts[1] != "ns" || parts[3] != "sa")
    return refuse(text, "expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>");
  if (std::ranges::any_of(parts, [](std::string_view part) { return part.empty(); })) return refuse(text, "a part is empty");
  return SpiffeId{std::string(parts[0]), std::string(parts[2]), std::string(parts[4])};
}

std::string SpiffeId::principal() const {
  std::string out;
  out.reserve(trust_domain.size() + namespace_.size() + service_account.size() + 8);
  return out.append(trust_domain).append("/ns/").append(namespace_).append("/sa/").append(service_account);
}

std::string SpiffeId::to_string() const { return std::string(kScheme) + principal(); }

}  // namespace zt::identity
