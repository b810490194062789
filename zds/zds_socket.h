#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "zds/zds.h"

// ZDS's sockets, its packets and the descriptors that travel with them. Contract §8.1, §8.3. Any thread.
namespace zt::zds {

// kInvalidInput: the path is empty or longer than a socket address holds (107 bytes).
[[nodiscard]] Result<> check_zds_path(const std::string& path);

// Connects an AF_UNIX SOCK_SEQPACKET socket (non-blocking, close-on-exec). kInvalidInput as above. kIo:
// nobody listens, or its queue is full (this does not wait: try again later).
[[nodiscard]] Result<UniqueFd> connect_zds(const std::string& path);

// Listens there, for root alone (mode 0600). Missing parent directories are made. A file left by a dead agent
// is unlinked. kInvalidInput: a living agent listens on it, or it is not a socket.
[[nodiscard]] Result<UniqueFd> listen_zds(const std::string& path);

// One packet as received.
struct ZdsPacket {
  std::string bytes;  // empty: the peer has closed the connection
  UniqueFd fd;        // the one descriptor that came along, or none
  [[nodiscard]] bool end_of_stream() const { return bytes.empty(); }
};

// Receives one packet without waiting; no value = nothing there yet. Descriptors are received close-on-exec.
// kInvalidInput: the packet or its control data was truncated, or it carried more than one descriptor; all of
// them are closed, and the connection is good for an answer but for nothing else. kIo: the socket failed.
[[nodiscard]] Result<std::optional<ZdsPacket>> receive_packet(int socket);

// A descriptor comes with an add, and with nothing else.
[[nodiscard]] Result<> check_fd_rule(const WorkloadRequest& request, bool has_fd);

// Sends one packet, with `fd` beside it unless it is -1, without waiting. False: the socket's buffer is full,
// try again when it is writable. kIo: the connection is gone. Never raises SIGPIPE.
[[nodiscard]] Result<bool> send_packet(int socket, std::string_view bytes, int fd = -1);

}  // namespace zt::zds
