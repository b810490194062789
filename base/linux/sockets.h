#pragma once
#include <cstdint>
#include <optional>

#include "base/address.h"
#include "base/linux/netns.h"
#include "base/result.h"
#include "base/unique_fd.h"

// What whoever makes sockets in pods' network namespaces shares.
namespace zt {

// Non-blocking, in `netns`; null: in our own. `family` AF_INET or AF_INET6, `type` SOCK_STREAM or SOCK_DGRAM. kIo.
[[nodiscard]] Result<UniqueFd> make_socket(const Netns* netns, int family, int type);

// Whether the kernel took it.
bool set_int(int fd, int level, int option, int value);

// Takes away the program that chooses among the sockets which share this one's port (SO_REUSEPORT), if there is one: it outlives
// who attached it, and would go on to give whoever comes next all that is new.
void unsteer(int fd);

// SO_MARK; 0 = none. kIo.
Result<> set_mark(int fd, uint32_t mark);

[[nodiscard]] SocketAddress local_address(int fd);
// Where the client of an accepted connection wanted to go before it was redirected (SO_ORIGINAL_DST); nothing if nobody redirected it.
[[nodiscard]] std::optional<SocketAddress> redirected_from(int fd);

}  // namespace zt
