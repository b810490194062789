#include "ztunnel/admin/browser_guard.h"

#include <fmt/format.h>

#include <string_view>

#include "base/address.h"
#include "base/text.h"

namespace zt::ztunnel {
namespace {

// The host of "host", "host:port", "v6 in brackets" and "[v6]:port".
std::string_view host_of(std::string_view text) {
  if (text.starts_with('[')) {
    const auto end = text.find(']');
    return end == std::string_view::npos ? text : text.substr(1, end - 1);
  }
  return text.substr(0, text.find(':'));
}

bool is_this_machine(std::string_view host) {
  return equals_ignoring_case(host, "localhost") || IpAddress::parse(host).has_value();
}

}  // namespace

std::string foreign_page(const HttpRequest& request) {
  constexpr std::string_view kWhat = "refused: only programs and this server's own page may do this";
  // A GET has no Origin, and to a name that is not trustworthy, as a rebound one, browsers do not send Sec-Fetch-Site either.
  const bool browser = request.user_agent.starts_with("Mozilla/");
  if (!browser && request.origin.empty() && request.fetch_site.empty()) return {};
  if (!is_this_machine(host_of(request.host))) {
    return fmt::format("{}; call it by its address or as localhost, not as '{}'\n", kWhat, request.host);
  }
  if (!request.origin.empty() && !equals_ignoring_case(request.origin, "http://" + request.host)) {
    return fmt::format("{}, and the Origin header names '{}'\n", kWhat, request.origin);
  }
  if (!request.fetch_site.empty() && request.fetch_site != "same-origin" && request.fetch_site != "none") {
    return fmt::format("{}, and the Sec-Fetch-Site header says '{}'\n", kWhat, request.fetch_site);
  }
  return {};
}

}  // namespace zt::ztunnel
