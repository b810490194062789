#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

// The admin server of a proxy that runs, asked from outside: on the node, or through `kubectl port-forward`. Plain HTTP/1.1.
namespace zt::ztunnel {

struct AdminAnswer {
  unsigned status = 0;
  std::string body;
};

// One request to the server at `address` ("localhost:15000"), at most a minute and 1 GiB. Blocks. kInvalidInput: `address` is none;
// kIo: no answer, and the text says what to do about it.
[[nodiscard]] Result<AdminAnswer> ask_admin(const std::string& address, std::string_view method, std::string_view target);

// The config_dump of the proxy there. kIo, also for what answers and is no ztunnel.
[[nodiscard]] Result<std::string> fetch_config_dump(const std::string& address);

}  // namespace zt::ztunnel
