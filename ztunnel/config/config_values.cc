#include "ztunnel/config/config_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/host_port.h"
#include "base/text.h"
#include "mesh/reason.h"

namespace zt::ztunnel {
namespace {

std::unexpected<Error> refuse(std::string text) { return fail(Reason::kInvalidInput, std::move(text)); }

// Takes the leading decimal digits off `text`; nothing if there are none or they overflow.
std::optional<uint64_t> take_number(std::string_view& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

bool is_domain(std::string_view text) {
  if (text.empty() || text.size() > 253 || text.front() == '.' || text.back() == '.') return false;
  if (text.find("..") != std::string_view::npos) return false;
  return std::ranges::all_of(text, [](char c) { return is_alnum(c) || c == '-' || c == '.' || c == '_'; });
}

// Host and port of "host:port" or "[v6]:port".
bool is_host_port(std::string_view text) {
  if (SocketAddress::parse(text)) return true;
  const auto parts = split_host_port(text);
  return parts && !parts->bracketed && is_domain(parts->host) && parts->port > 0;
}

// Helm makes 4.194304e+06 of a large number in its values, which nobody reads as a whole number: say how to write it.
std::string helm_hint(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::scientific);
  const bool whole =
      error == std::errc{} && end == text.data() + text.size() && number >= 0 && number < 0x1p53 && std::trunc(number) == number;
  return whole ? fmt::format("; Helm writes large numbers so: put it in quotes in its values, \"{}\"",
                             static_cast<uint64_t>(number))
               : std::string();
}

}  // namespace

Result<bool> parse_boolean(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return refuse("expected true or false");
}

Result<uint64_t> parse_unsigned(std::string_view text, uint64_t low, uint64_t high) {
  auto rest = text;
  if (rest.starts_with('+')) rest.remove_prefix(1);  // as the peer
  const auto value = take_number(rest);
  if (value && rest.empty() && *value >= low && *value <= high) return *value;
  return refuse(fmt::format("expected a whole number from {} to {}{}", low, high, helm_hint(text)));
}

Result<uint64_t> parse_quantity(std::string_view text) {
  struct Suffix {
    std::string_view name;
    double factor;
  };
  static constexpr std::array<Suffix, 12> kSuffixes{{{"", 1},
                                                     {"m", 1e-3},
                                                     {"k", 1e3},
                                                     {"M", 1e6},
                                                     {"G", 1e9},
                                                     {"T", 1e12},
                                                     {"Ki", 0x1p10},
                                                     {"Mi", 0x1p20},
                                                     {"Gi", 0x1p30},
                                                     {"Ti", 0x1p40},
                                                     {"u", 1e-6},
                                                     {"n", 1e-9}}};
  double number = 0;
  const auto* const begin = text.data();
  const auto [end, error] = std::from_chars(begin, begin + text.size(), number, std::chars_format::general);
  const auto suffix = text.substr(static_cast<size_t>(end - begin));
  const auto found = std::ranges::find(kSuffixes, suffix, &Suffix::name);
  if (error != std::errc{} || text.empty() || !is_digit(text.front()) || found == kSuffixes.end()) {
    return refuse("expected a quantity such as 2, 1.5, 500m or 256Mi");
  }
  // A little less than the exact product must not round up to the next whole number.
  const double value = std::ceil(number * found->factor - 1e-9);
  if (!(value >= 0 && value < 0x1p53)) return refuse("quantity out of range");
  return static_cast<uint64_t>(value);
}

Result<unsigned> parse_worker_threads(std::string_view text, unsigned cpus) {
  auto rest = text;
  const auto number = take_number(rest);
  if (!number || (!rest.empty() && rest != "%")) return refuse("expected a number of threads, 0, or a percentage such as 50%");
  if (rest == "%") {
    if (*number == 0 || *number > 100) return refuse("percentage must be above 0 and at most 100");
    const uint64_t share = (uint64_t{cpus} * *number + 99) / 100;
    return static_cast<unsigned>(std::max<uint64_t>(1, share));
  }
  if (*number > kMaxWorkerThreads) return refuse(fmt::format("more than {} threads", kMaxWorkerThreads));
  return *number == 0 ? cpus : static_cast<unsigned>(*number);
}

Result<std::string> parse_control_address(std::string_view text) {
  const auto scheme_end = text.find("://");
  auto rest = text;
  if (scheme_end != std::string_view::npos) {
    if (text.substr(0, scheme_end) != "https")
      return refuse("expected https://host:port: the control plane is reached over TLS only");
    rest = text.substr(scheme_end + 3);
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  if (!is_host_port(rest)) return refuse("expected host:port");
  return fmt::format("https://{}", rest);
}

Result<PodName> parse_workload_info(std::string_view text) {
  const auto first = text.find('/');
  const auto second = first == std::string_view::npos ? first : text.find('/', first + 1);
  if (second == std::string_view::npos || text.find('/', second + 1) != std::string_view::npos) {
    return refuse("expected namespace/name/service-account");
  }
  PodName pod{std::string(text.substr(first + 1, second - first - 1)), std::string(text.substr(0, first)),
              std::string(text.substr(second + 1))};
  if (!is_domain(pod.name) || !is_domain(pod.ns) || !is_domain(pod.service_account)) {
    return refuse("expected namespace/name/service-account, three Kubernetes names");
  }
  return pod;
}

Result<ListenAddress> parse_dns_address(std::string_view text) {
  constexpr std::string_view kLocalhost = "localhost:";
  if (text.find("://") != std::string_view::npos) {
    return refuse(
        "expected localhost:port or ip:port; Kubernetes sets such a value for a service of that name (enableServiceLinks)");
  }
  if (equals_ignoring_case(text.substr(0, kLocalhost.size()), kLocalhost)) {
    ZT_ASSIGN(const uint64_t port, parse_unsigned(text.substr(kLocalhost.size()), 1, 65535));
    return LocalhostPort{static_cast<uint16_t>(port)};
  }
  const auto address = SocketAddress::parse(text);
  if (!address) return refuse("expected localhost:port or ip:port");
  return *address;
}

Result<std::pair<std::string, std::string>> parse_header(std::string_view name, std::string_view value) {
  const bool good_name = !name.empty() && name.size() <= 256 &&
                         std::ranges::all_of(name, [](char c) { return is_alnum(c) || c == '-' || c == '_' || c == '.'; });
  if (!good_name) return refuse("not a header name");
  const bool good_value =
      value.size() <= kMaxTextBytes && std::ranges::all_of(value, [](char c) { return c >= 0x20 && c < 0x7f; });
  if (!good_value) return refuse("not a header value");
  return std::pair(lower_text(name), std::string(value));
}

Result<std::string> parse_domain(std::string_view text) {
  if (text.ends_with('.')) text.remove_suffix(1);
  if (!is_domain(text)) return refuse("expected a domain name");
  return lower_text(text);
}

Result<std::string> parse_plain_text(std::string_view text) {
  if (text.size() > kMaxTextBytes) return refuse(fmt::format("longer than {} bytes", kMaxTextBytes));
  if (!std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; })) {
    return refuse("contains control characters");
  }
  return std::string(text);
}

}  // namespace zt::ztunnel
