#pragma once
#include <sys/un.h>

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

// Sockets by path. `what` names them in errors: "ZDS socket". All are non-blocking and close-on-exec.
namespace zt {

// kInvalidInput: empty, or longer than such an address can be.
[[nodiscard]] Result<sockaddr_un> unix_address(const std::string& path, std::string_view what);

// `type`: SOCK_SEQPACKET or SOCK_STREAM.
[[nodiscard]] Result<UniqueFd> make_unix_socket(int type);

// Listens there, for root alone (mode 0600). Missing parent directories are made. A file left by a dead process is unlinked.
// kInvalidInput: a living one listens on it, or it is not a socket (a link is none either).
[[nodiscard]] Result<UniqueFd> listen_unix(const std::string& path, int type, std::string_view what);

}  // namespace zt
