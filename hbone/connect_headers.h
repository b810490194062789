#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/address.h"
#include "base/result.h"
#include "hbone/stream.h"

// What a CONNECT request and its answer carry (contract §2.5–2.7). Pure. All of it except `:method` and `:authority` is a hint
// from the peer: telemetry may use it, policy never does.
namespace zt::hbone {

// Longest header value that is looked at; longer ones count as absent.
inline constexpr size_t kMaxHintBytes = 8192;
// Longest single name in them that is taken: Kubernetes' names have 253 bytes at most. They are kept as long as their connection is open,
// outside of any account.
inline constexpr size_t kMaxHintedName = 256;
// Longest authority: a hostname (RFC 1035 §2.3.4, as text) and a port. It gets into logs, and on demand into what the control
// plane is asked for, where many are remembered.
inline constexpr size_t kMaxAuthorityBytes = 253 + sizeof(":65535") - 1;

// Workload attributes that travel in `baggage` (contract §2.6). Empty = unknown.
struct Baggage {
  std::string cluster;
  std::string namespace_;
  std::string workload_type = "deployment";  // deployment, cronjob, pod, job
  std::string workload_name;
  std::string service_name;
  std::string service_version;
  std::string region;
  std::string zone;

  [[nodiscard]] std::string render() const;               // only non-empty values; "" if there is none
  static std::optional<Baggage> parse(std::string_view);  // nothing if not visible ASCII
};

// W3C trace context of one captured connection.
struct TraceParent {
  std::string trace_id;  // 32 hex: the log's id
  std::string span_id;   // 16 hex

  static TraceParent random();
  static std::optional<TraceParent> parse(std::string_view value);
  [[nodiscard]] std::string render() const;  // 00-<trace>-<span>-00
};

struct ConnectRequest {
  std::string authority;
  Baggage source;
  SocketAddress client;      // the application's socket, for `forwarded`
  std::string service_host;  // destination service if known
  std::string traceparent;
  std::optional<std::string> from_network;  // x-forwarded-network: inner CONNECT of double HBONE only
};
[[nodiscard]] Headers render_connect(const ConnectRequest& request);

// `forwarded: for="…";host=…` → host; nothing if absent, empty or not ASCII.
[[nodiscard]] std::optional<std::string> parse_forwarded_host(std::string_view value);

// A request as the server sees it.
struct ReceivedConnect {
  std::string method;
  std::string authority;
  std::optional<SocketAddress> address;  // authority as ip:port …
  std::string host;                      // … or as host:port
  uint16_t port = 0;
  std::optional<std::string> forwarded_host;
  std::optional<Baggage> baggage;
  TraceParent trace;
  std::optional<std::string> from_network;
};
// kBadMethod, kBadAuthority (contract §2.5, "Server parsing").
Result<ReceivedConnect> parse_connect(const Headers& headers);

// Status and baggage of an answer. kConnectStatus for anything but 200: "http status: 401 Unauthorized".
struct ReceivedAnswer {
  uint16_t status = 0;
  std::optional<Baggage> baggage;
};
// Its :status; 0: it has none.
[[nodiscard]] uint16_t answer_status(const Headers& headers);
Result<ReceivedAnswer> parse_answer(const Headers& headers);
[[nodiscard]] std::string_view status_phrase(uint16_t status);

[[nodiscard]] Headers render_answer(uint16_t status, const Baggage* destination);

}  // namespace zt::hbone
