#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

// The chained CNI plugin: asks the node agent before a pod starts, and changes nothing of what the plugins before it made (CNI
// specification 0.4.0 to 1.1.0; redirection contract §4). Uses nothing of the other folders: it is one small static program.
namespace zt::cni {

// Of the specification. Lists that istio-cni's installer makes say 0.3.1; both of the 0.3 have all but CHECK.
inline constexpr std::array<std::string_view, 6> kVersions{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"};
[[nodiscard]] constexpr bool is_supported(std::string_view version) {
  return std::find(kVersions.begin(), kVersions.end(), version) != kVersions.end();
}

// What the agent's socket said: HTTP status and body. No status: it could not be asked, and `text` says why.
struct AgentAnswer {
  std::optional<unsigned> status;
  std::string text;
};
using AskAgent = std::function<AgentAnswer(const std::string& socket, const std::string& body)>;
using Environment = std::function<std::optional<std::string>(const char* name)>;

struct Outcome {
  int exit = 0;
  std::string out;  // for standard output: the previous result, or an error as the specification has it
};

// The specification's codes, and ours (100 and up).
inline constexpr uint32_t kIncompatibleVersion = 1, kBadEnvironment = 4, kBadContent = 6, kBadConfig = 7, kTryAgainLater = 11,
                          kAgentRefused = 100, kNotAvailable = 50;

// One call, with what the container runtime gave: CNI_COMMAND and its neighbours, and the network configuration.
[[nodiscard]] Outcome call(const Environment& env, std::string_view config, const AskAgent& ask);

// HTTP over the agent's socket, within 5 s. `what`: method and path.
[[nodiscard]] AgentAnswer ask_agent(const std::string& socket, const std::string& body, std::string_view what = "POST /cmdadd");

}  // namespace zt::cni
