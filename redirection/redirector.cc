#include "redirection/redirector.h"

#include <fmt/format.h>
#include <net/if.h>

#include <algorithm>

#include "mesh/reason.h"

namespace zt::redirection {

Result<> valid_interface_name(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("._-@:").find(c) != std::string_view::npos;
  };
  if (!name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." && std::all_of(name.begin(), name.end(), allowed)) {
    return {};
  }
  return fail(Reason::kInvalidInput,
              fmt::format("'{}' is not an interface name (1 to {} letters, digits or ._-@:)", name, IFNAMSIZ - 1));
}

}  // namespace zt::redirection
