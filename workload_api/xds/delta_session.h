#pragma once
#include <absl/container/flat_hash_map.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "workload_api/store/store.h"
#include "workload_api/xds/delta_request.h"
#include "workload_api/xds/delta_response.h"
#include "workload_api/xds/on_demand.h"
#include "workload_api/xds/xds_stats.h"

namespace zt::workload_api {

// Longest text of a NACK; what does not fit is counted in its last words.
inline constexpr size_t kMaxNackBytes = 16u << 10;

// The client's side of delta ADS (contract §6.3 to §6.5) without I/O: what to send when a stream begins, and
// what to answer to a response. Outlives streams; what it retains and reports when the next one begins is
// exactly what the store has from this control plane, so that istiod can tell what to add and what to remove.
// Control thread.
class DeltaSession {
 public:
  struct Options {
    bool on_demand = false;  // XDS_ON_DEMAND: addresses are asked for one by one
    size_t lookups_per_asker = kMaxLookupsOfAsker;
  };
  DeltaSession(Store& store, Options options) : store_(store), options_(options), lookups_(options.lookups_per_asker) {}

  // A stream begins: its first requests, in order.
  [[nodiscard]] std::vector<DeltaRequest> start_stream();
  void end_stream();

  // Applies a response as one publication and returns what to answer: an ACK, or a NACK that names what was
  // refused, in which case the rest has been applied all the same.
  [[nodiscard]] DeltaRequest handle(DeltaResponse response);

  // Each type that is sent unasked has had a response that we could ACK. Stays so for good.
  [[nodiscard]] bool ready() const;

  // On-demand mode: what the control plane knows about `key`. A request that is returned is to be sent.
  [[nodiscard]] std::optional<DeltaRequest> look_up(const std::string& key, const std::string& asker, Clock::time_point now,
                                                    LookupDone done);
  [[nodiscard]] OnDemandKeys& lookups() { return lookups_; }
  [[nodiscard]] const OnDemandKeys& lookups() const { return lookups_; }

  // The session's part of the figures.
  void add_to(XdsStats& stats) const;

 private:
  using Versions = absl::flat_hash_map<Str, Str, StrHash, StrEqual>;

  void note_names(const DeltaResponse& response);
  [[nodiscard]] Versions& retained(ResourceType type) { return retained_[static_cast<size_t>(type)]; }

  Store& store_;
  const Options options_;
  std::array<Versions, kResourceTypes> retained_;  // name → version of what has been applied
  std::array<bool, kResourceTypes> acked_{};
  OnDemandKeys lookups_;
  XdsStats stats_;
};

// "name: why; name: why", at most kMaxNackBytes.
[[nodiscard]] std::string nack_text(const std::vector<Rejected>& rejected);

}  // namespace zt::workload_api
