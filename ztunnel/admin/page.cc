#include "ztunnel/admin/page.h"

#include <fmt/format.h>

#include <random>
#include <string_view>

namespace zt::ztunnel {

// page/index.html with its style and script, put together by CMake.
extern const unsigned char kPageBytes[];
extern const unsigned long kPageSize;

namespace {
constexpr std::string_view kNonce = "@NONCE@";
}  // namespace

HttpResponse page_response() {
  std::random_device random;
  const std::string nonce = fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  HttpResponse page;
  page.content_type = "text/html; charset=utf-8";
  // Its own style and script, and nothing that a name from the mesh could become.
  page.headers.emplace_back("content-security-policy",
                            fmt::format("default-src 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'; connect-src 'self'; "
                                        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
                                        nonce));
  page.headers.emplace_back("x-content-type-options", "nosniff");
  // Not no-referrer: browsers would say `Origin: null` for the page's own forms, as for those of others.
  page.headers.emplace_back("referrer-policy", "same-origin");
  page.headers.emplace_back("cache-control", "no-store");
  std::string_view rest(reinterpret_cast<const char*>(kPageBytes), kPageSize);
  for (size_t at; (at = rest.find(kNonce)) != std::string_view::npos; rest.remove_prefix(at + kNonce.size())) {
    page.body.append(rest.substr(0, at)).append(nonce);
  }
  page.body += rest;
  return page;
}

}  // namespace zt::ztunnel
