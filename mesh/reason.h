#pragma once
#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace zt {

// Why something on the data path ended or was refused. One enum for the whole path: reason_info() maps each value to what
// the peers' tools expect to see (contract §2.7, §10.2). Every connection ends with exactly one.
enum class Reason : uint8_t {
  kInternal = 0,  // cannot happen; counted. This and the next four are those of base/result.h
  kIo,            // other I/O error
  kInvalidInput,  // configuration, file or API input refused
  kNotFound,
  kResourceLimit,         // one of our own limits (memory budget, streams, headers)
  kOk,                    // orderly end
  kDrained,               // cut when the drain deadline passed
  kPolicyDenied,          // RBAC at open
  kPolicyRevoked,         // RBAC after a policy change
  kPolicyUnknown,         // a selector policy named by the workload has not been delivered in time: fail closed
  kConnectFailed,         // TCP connect to the upstream failed
  kConnectTimeout,        // TCP connect timed out
  kNetworkPolicy,         // TCP connect to an HBONE peer timed out (a NetworkPolicy blocks 15008?)
  kTlsFailed,             // handshake with the peer failed
  kTlsTimeout,            // handshake took too long
  kH2Failed,              // HTTP/2 preface or session error
  kConnectStatus,         // peer answered CONNECT with a status other than 200
  kConnectAnswerTimeout,  // peer did not answer CONNECT in time
  kStreamReset,           // peer reset the stream
  kDownstreamReset,       // application or client reset its side
  kUpstreamReset,         // upstream reset its side
  kPeerLost,              // PING unanswered, or the tunnel's TCP connection failed
  kIdentityUnavailable,   // own certificate cannot be had
  kIdentityTimeout,       // own certificate did not come in time
  kCertRevoked,           // CRL
  kNoWorkload,            // own workload unknown
  kNoUpstream,            // service without healthy endpoint
  kNoRoute,               // no valid routing destination
  kUnknownWaypoint,
  kUnknownGateway,
  kLookupFailed,   // on demand, the control plane did not say what it knows of the destination
  kNoService,      // authority names a host that no service has
  kIpMismatch,     // authority is not one of our addresses
  kRecursiveCall,  // self-call or illegal port (contract §1.7)
  kBadMethod,      // not CONNECT
  kBadAuthority,
  kHandshakeLimit,   // too many handshakes in flight: of the source, for the pod, or in all
  kTunnelLimit,      // the pod has as many tunnels from peers as it may
  kConnectionLimit,  // the pod has as many connections as it may
  kPeerFlood,        // the peer of a tunnel sends too much that moves nothing, or that has to be refused
  kSendTimeout,      // the peer of a tunnel takes nothing of what there is for it
  kCount_,
};

struct ReasonInfo {
  std::string_view name;           // stable, snake_case: metrics and logs
  std::string_view response_flag;  // contract §10.2; "-" = success
  uint16_t http_status;            // answer to an inbound CONNECT that ends this way before the 200
};

[[nodiscard]] const ReasonInfo& reason_info(Reason reason);

}  // namespace zt
