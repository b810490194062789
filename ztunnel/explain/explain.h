#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "ztunnel/decide/authorize.h"
#include "ztunnel/decide/route.h"
#include "ztunnel/explain/policy_reason.h"
#include "ztunnel/explain/state.h"

// Where a connection goes and whether it may: route(), inbound_target() and authorize(), as the proxy calls them, asked about one
// connection that nobody makes, with what they looked at. Pure; any thread.
namespace zt::ztunnel {

struct Question {
  workload_api::WorkloadPtr source;
  SocketAddress destination;
  std::string asked;  // as the destination was written
  std::string found;  // what that is, in words, if it was no address
};

// `source`: "namespace/pod", a uid, or an address. `destination`: "address:port", "host:port" (a service by its hostname or by a short
// name, in `domain`), or "namespace/pod:port". kNotFound, kInvalidInput.
[[nodiscard]] Result<Question> make_question(const KnownState& state, std::string_view source, std::string_view destination,
                                             std::string_view domain);

// A policy of the destination, and what it says to the connection.
struct PolicyLine {
  std::string name;     // "namespace/name"
  const char* applies;  // why it is asked: "it is global", "of the namespace", "the workload names it"
  const workload_api::Authorization* spec = nullptr;  // null: not delivered. Lives as long as the snapshot.
  PolicyReason reason;
  bool decides = false;
};

// What the proxy at the other end says.
struct Arriving {
  Result<InboundTarget> target = InboundTarget{};
  std::optional<Verdict> verdict;  // none: the target was refused
  std::vector<PolicyLine> policies;
};

struct Explanation;

// One of the ways that connections of this kind take.
struct Way {
  Route route;
  size_t turns = 0;                 // of Explanation::turns
  std::optional<Arriving> arrival;  // none: nobody of this mesh asks a policy there
  std::string beyond;               // why that is, or what comes after
  // Through a waypoint: what the waypoint meets if it calls the same destination itself, as one that does nothing else would.
  std::shared_ptr<const Explanation> onward{};
};

struct Explanation {
  workload_api::WorkloadPtr source;  // who calls
  std::string destination;           // what the address is: a service, a workload, or nobody's
  std::vector<Way> ways;             // the most frequent first
  size_t turns = 0;                  // connections that were tried, one after the other, as a worker counts them
};

[[nodiscard]] Explanation explain(const KnownState& state, const Question& question);

// As text for people, and as JSON with everything that the text says.
[[nodiscard]] std::string explanation_text(const KnownState& state, const Question& question, const Explanation& explanation);
[[nodiscard]] std::string explanation_json(const KnownState& state, const Question& question, const Explanation& explanation);

}  // namespace zt::ztunnel
