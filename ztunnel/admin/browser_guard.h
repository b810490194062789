#pragma once
#include <string>

#include "ztunnel/admin/http_server.h"

namespace zt::ztunnel {

// Why this request, which changes something, makes the node work or tells of it, must not be served; empty: it may. A page of the web
// can make its visitor's browser send requests to a port of the visitor's machine, and `kubectl port-forward` puts a node's admin port
// there. Browsers say so: in Origin and Sec-Fetch-Site, which a page cannot forge, and in Host where a name of the page's own was made
// to lead here (DNS rebinding). All browsers call themselves Mozilla/, for the requests that have neither of the first two. curl,
// istioctl and Prometheus send none of this. Our own page is of one origin with us.
[[nodiscard]] std::string foreign_page(const HttpRequest& request);

}  // namespace zt::ztunnel
