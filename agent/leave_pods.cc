#include "agent/leave_pods.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/event_loop.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {
constexpr std::chrono::milliseconds kPoll{250};
}  // namespace

Result<> leave_pods(redirection::Redirector& redirector, const std::vector<PodSpec>& specs, std::chrono::milliseconds limit) {
  std::vector<std::pair<const PodSpec*, redirection::RedirectedPod>> pods;
  std::string failures;
  const auto note = [&](const PodSpec& spec, const Error& error) {
    failures += fmt::format("{}pod {}: {}", failures.empty() ? "" : "; ", spec.uid, error.text);
  };
  for (const auto& spec : specs) {
    auto netns = Netns::open(spec.netns_path);
    if (!netns && netns.error().reason == Reason::kNotFound) continue;  // a pod that is gone has nothing to remove
    if (!netns) {
      note(spec, netns.error());
      continue;
    }
    pods.emplace_back(&spec, redirection::RedirectedPod{std::make_shared<const Netns>(std::move(*netns)), spec.options});
    if (auto stopped = redirector.stop_capturing(pods.back().second); !stopped) note(spec, stopped.error());
  }
  const auto deadline = Clock::now() + limit;
  const auto carries = [&](const auto& pod) {
    const auto carried = redirector.carried_connections(pod.second);
    return carried && *carried > 0;
  };
  while (Clock::now() < deadline && std::any_of(pods.begin(), pods.end(), carries)) {
    std::this_thread::sleep_for(kPoll);
  }
  for (const auto& [spec, pod] : pods) {
    if (auto left = redirector.unenroll(pod); !left) note(*spec, left.error());
  }
  return failures.empty() ? Result<>{} : fail(Reason::kIo, failures);
}

}  // namespace zt::agent
