#include "base/linux/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/log.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace zt {

namespace {
log::Scope kLog("service");
}

// By hand, as sd_notify(3) recommends for one datagram, and not by libsystemd, with all that comes with it.
void tell_service_manager(std::string_view state) {
  const char* const set = std::getenv("NOTIFY_SOCKET");
  if (set == nullptr || *set == '\0') return;
  const std::string_view path = set;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto failed = [&](const std::string& why) {
    ZT_LOG(kLog, kWarn, "the service manager cannot be told", log::Field::string("socket", path),
           log::Field::string("state", state), log::Field::string("error", why));
  };
  if ((path.front() != '/' && path.front() != '@') || path.size() >= sizeof address.sun_path)
    return failed("no such address can be");
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path.front() == '@') address.sun_path[0] = '\0';  // an abstract one
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd ||
      ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), length) < 0)
    failed(errno_text(errno));
}

}  // namespace zt
