#pragma once
#include <string>

#include "ztunnel/admin/http_server.h"

namespace zt::ztunnel {

// Why this request, which changes something, must not be served; empty: it may. A page of the web can make its visitor's browser send
// a POST to a port of the visitor's machine, and `kubectl port-forward` puts a node's admin port there. Browsers say so: in Origin
// and Sec-Fetch-Site, which a page cannot forge, and in Host where a name of the page's own was made to lead here (DNS rebinding).
// curl and istioctl send neither of the first two. Our own page is of one origin with us.
[[nodiscard]] std::string foreign_page(const HttpRequest& request);

}  // namespace zt::ztunnel
