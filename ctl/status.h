#pragma once
#include "ctl/dump.h"

namespace zt::ctl {

// A node at a glance: what runs, for how many pods, what of it is not as it should be. `now`: seconds since 1970.
[[nodiscard]] json::object status(const Dump& dump, int64_t now);
[[nodiscard]] std::string status_text(const json::object& status);

}  // namespace zt::ctl
