#pragma once
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "workload_api/xds/resource_type.h"

namespace zt::workload_api {

// How a stream to the control plane ended; the names are the values of the metric's label `reason` (contract
// §6.6).
enum class StreamEnd : uint8_t { kConnectionError, kReconnect, kError, kComplete };
inline constexpr size_t kStreamEnds = 4;
[[nodiscard]] constexpr std::string_view stream_end_name(StreamEnd end) {
  constexpr std::array<std::string_view, kStreamEnds> names{"ConnectionError", "Reconnect", "Error", "Complete"};
  return names[static_cast<size_t>(end)];
}

// Counters since start and gauges of now, for telemetry. Control thread.
struct XdsStats {
  // By ResourceType; the last one is for all types that we do not know.
  std::array<uint64_t, kResourceTypes + 1> messages{};
  std::array<uint64_t, kResourceTypes + 1> message_bytes{};
  std::array<uint64_t, kStreamEnds> terminations{};  // by StreamEnd
  uint64_t streams = 0;                              // attempts
  uint64_t undecodable_messages = 0;                 // each ended its stream
  uint64_t resources = 0;
  uint64_t rejected_resources = 0;
  uint64_t nacks = 0;
  bool connected = false;  // the present stream has been answered
  std::optional<std::chrono::steady_clock::time_point> last_ack;
  std::chrono::nanoseconds longest_apply{};       // of one message, on the control thread
  std::array<size_t, kResourceTypes> retained{};  // names held, by ResourceType

  // On-demand lookups.
  uint64_t lookups = 0;
  uint64_t lookup_timeouts = 0;
  uint64_t lookups_refused = 0;
  size_t lookups_waiting = 0;
  size_t keys_subscribed = 0;
};

}  // namespace zt::workload_api
