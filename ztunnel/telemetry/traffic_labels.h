#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ztunnel/telemetry/metrics.h"

// Label sets of the traffic metrics as text (contract §10.1). Pure; any thread.
namespace zt::ztunnel {

// The value of a label of which nothing is known.
inline constexpr std::string_view kUnknownLabel = "unknown";

// All names that a set may have, in order.
inline constexpr size_t kTrafficLabels = 28;
[[nodiscard]] const std::array<std::string_view, kTrafficLabels>& traffic_label_names();
// One bit for each of them: those that are named, and those that always are shown. Empty: all.
[[nodiscard]] uint32_t shown_labels(const std::vector<std::string>& names);

// The whole set, "{reporter=…}", with an empty response flag, of what is `shown`; `flag_at` is where the flag belongs.
void render_labels(std::string& out, const TrafficLabels& labels, uint32_t shown, size_t& flag_at);
// Under which what exceeds the limits is counted.
[[nodiscard]] TrafficLabels overflow_labels(Reporter reporter);
// The value of a label of a rendered set, a view into it; empty if it is not there. Names of Kubernetes need no escapes, so none are
// undone.
[[nodiscard]] std::string_view label_in(std::string_view text, std::string_view name);
// Source and destination of a rendered set; views into it.
[[nodiscard]] std::array<TrafficMetrics::WorkloadName, 2> workloads_of(std::string_view text);

}  // namespace zt::ztunnel
