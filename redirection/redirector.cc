#include "redirection/redirector.h"

#include <fmt/format.h>
#include <net/if.h>
#include <sched.h>

#include <algorithm>

#include "base/text.h"
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

Result<PortRange> parse_port_range(std::string_view text) {
  const auto dash = text.find('-');
  const auto first = whole_number<uint16_t>(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : whole_number<uint16_t>(text.substr(dash + 1));
  if (first && last && *first > 0 && *first <= *last) return PortRange{*first, *last};
  return fail(Reason::kInvalidInput, fmt::format("'{}' is no port and no range of ports such as 8000-8080", text.substr(0, 64)));
}

Result<Cidr> parse_range(std::string_view text) {
  if (const auto range = Cidr::parse(text)) return *range;
  return fail(Reason::kInvalidInput, fmt::format("'{}' is no range of addresses such as 10.0.0.0/8", text.substr(0, 64)));
}

void compare_lines(std::string_view where, const std::vector<std::string>& wanted, const std::vector<std::string>& actual,
                   Deviations& deviations) {
  if (wanted == actual) return;
  const auto report = [&](std::string_view what, const std::vector<std::string>& lines, std::vector<std::string> others) {
    for (const auto& line : lines) {
      if (const auto same = std::find(others.begin(), others.end(), line); same != others.end()) {
        others.erase(same);
      } else {
        deviations.push_back(fmt::format("{} in {}: {}", what, where, line));
      }
    }
  };
  const size_t before = deviations.size();
  report("missing", wanted, actual);
  report("unexpected", actual, wanted);
  if (deviations.size() == before) deviations.push_back(fmt::format("rules of {} are in another order", where));
}

Result<Netns> make_scratch_netns() {
  ZT_ASSIGN(const Netns own, Netns::current());
  // By a thread that ends in it.
  return in_netns_thread(own, []() -> Result<Netns> {
    if (::unshare(CLONE_NEWNET) != 0) return fail_errno(Reason::kIo, "cannot make a network namespace");
    return Netns::current();
  });
}

}  // namespace zt::redirection
