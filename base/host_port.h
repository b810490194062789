#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/text.h"

namespace zt {

// "host:port" and "[v6]:port" taken apart; what a host may be is for the caller to say. Views of the text.
struct HostPortText {
  std::string_view host;  // never empty; without brackets
  uint16_t port = 0;
  bool bracketed = false;  // exactly then the host has colons
};

// Nothing if the host or the port is missing, or the port is no number of 16 bits.
[[nodiscard]] inline std::optional<HostPortText> split_host_port(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  auto host = text.substr(0, colon);
  const auto port = whole_number<uint16_t>(text.substr(colon + 1));
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || !port || (host.find(':') != std::string_view::npos) != bracketed) return std::nullopt;
  return HostPortText{host, *port, bracketed};
}

}  // namespace zt
