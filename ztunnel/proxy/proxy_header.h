#pragma once
#include <string>
#include <string_view>

#include "base/address.h"

namespace zt::ztunnel {

// The header by which an application tunnel learns whom it serves (PROXY protocol version 2; contract §2.10): `source` asked for
// `destination`; `identity` is the SPIFFE id that it proved (TLV 0xD0), `service` the host name of the service that the destination
// belongs to (TLV 0xD1), each left out if empty. Of two families, the IPv4 address is told as IPv6 has it (::ffff:10.0.0.1).
// At most 16 KiB.
[[nodiscard]] std::string render_proxy_header(const SocketAddress& source, const SocketAddress& destination,
                                              std::string_view identity, std::string_view service);

}  // namespace zt::ztunnel
