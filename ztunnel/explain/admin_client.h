#pragma once
#include <string>

#include "base/result.h"

namespace zt::ztunnel {

// The config_dump of the proxy whose admin server is at `address` ("localhost:15000"). Blocks for at most a minute; kIo.
[[nodiscard]] Result<std::string> fetch_config_dump(const std::string& address);

}  // namespace zt::ztunnel
