#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "mesh/pod_name.h"

// ZDS, the messages between the node agent (server) and the node proxy (client): one bare protobuf message
// per packet of an AF_UNIX SOCK_SEQPACKET socket, and one descriptor (the pod's network namespace) beside an
// AddWorkload. Contract §8.1-8.3, redirection contract §3.1-3.2. Pure functions; any thread.
namespace zt::zds {

// Longest message in either direction; the peers read into buffers of exactly this size.
inline constexpr size_t kMaxZdsMessage = 1024;
// Longest error text of an ack; longer ones are cut, since istio-cni takes a truncated ack for a broken
// connection.
inline constexpr size_t kMaxAckText = 900;
inline constexpr uint32_t kZdsVersion1 = 1;
inline constexpr std::string_view kDefaultZdsPath = "/var/run/ztunnel/ztunnel.sock";

struct ZdsHello {
  uint32_t version = kZdsVersion1;
  friend bool operator==(const ZdsHello&, const ZdsHello&) = default;
};

// `uid` is the Kubernetes pod UID (or the YAML file's) and names a pod for ever: a recreated pod has another
// one.
struct AddWorkload {
  std::string uid;
  std::optional<PodName> info;  // optional on the wire only; without it the request is a protocol error
  friend bool operator==(const AddWorkload&, const AddWorkload&) = default;
};
struct KeepWorkload {
  std::string uid;
  friend bool operator==(const KeepWorkload&, const KeepWorkload&) = default;
};
struct DelWorkload {
  std::string uid;
  friend bool operator==(const DelWorkload&, const DelWorkload&) = default;
};
struct SnapshotSent {
  friend bool operator==(const SnapshotSent&, const SnapshotSent&) = default;
};
using WorkloadRequest = std::variant<AddWorkload, KeepWorkload, DelWorkload, SnapshotSent>;

// Answer to one request, in order. Empty = accepted.
struct WorkloadAck {
  std::string error;
  friend bool operator==(const WorkloadAck&, const WorkloadAck&) = default;
};

[[nodiscard]] std::string encode(const ZdsHello& hello);
[[nodiscard]] std::string encode(const WorkloadRequest& request);
// Cuts the text at kMaxAckText bytes, on a UTF-8 boundary.
[[nodiscard]] std::string encode(const WorkloadAck& ack);

// Unknown fields are skipped, and to protobuf a known one of the wrong type is one of those. Refused (kInvalidInput): malformed
// bytes, strings that are not UTF-8, no payload, more than kMaxZdsMessage bytes, and for a hello any version but 1.
[[nodiscard]] Result<ZdsHello> decode_hello(std::string_view bytes);
[[nodiscard]] Result<WorkloadRequest> decode_request(std::string_view bytes);
[[nodiscard]] Result<WorkloadAck> decode_ack(std::string_view bytes);

// A short name for logs: "add", "keep", "del", "snapshot_sent".
[[nodiscard]] std::string_view request_kind(const WorkloadRequest& request);

}  // namespace zt::zds
