#pragma once
#include <string>
#include <string_view>

#include "base/address.h"

namespace zt::ztunnel {

// The header by which an application tunnel learns whom it serves (PROXY protocol version 2; contract §2.10): `source` asked for
// `destination`; `identity` is the SPIFFE id that it proved, empty if none. Addresses of two families cannot be told in one
// header: then it holds none. At most 16 KiB.
[[nodiscard]] std::string render_proxy_header(const SocketAddress& source, const SocketAddress& destination,
                                              std::string_view identity);

}  // namespace zt::ztunnel
