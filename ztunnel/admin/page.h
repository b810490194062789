#pragma once
#include "ztunnel/admin/http_server.h"

namespace zt::ztunnel {

// The page on the admin port: one document without anything from elsewhere, and the policy that holds it to that. It draws what /live says.
[[nodiscard]] HttpResponse page_response();

}  // namespace zt::ztunnel
