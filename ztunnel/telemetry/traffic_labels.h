#pragma once
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "ztunnel/telemetry/metrics.h"

// Label sets of the traffic metrics as text (contract §10.1). Pure; any thread.
namespace zt::ztunnel {

// The value of a label of which nothing is known.
inline constexpr std::string_view kUnknownLabel = "unknown";

// The whole set, "{reporter=…}", with an empty response flag; `flag_at` is where the flag belongs.
void render_labels(std::string& out, const TrafficLabels& labels, size_t& flag_at);
// Under which what exceeds the limits is counted.
[[nodiscard]] TrafficLabels overflow_labels(Reporter reporter);
// Source and destination of a rendered set; views into it.
[[nodiscard]] std::array<TrafficMetrics::WorkloadName, 2> workloads_of(std::string_view text);

}  // namespace zt::ztunnel
