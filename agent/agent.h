#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/pods_file.h"
#include "base/event_loop.h"
#include "base/file_watch.h"
#include "redirection/redirector.h"
#include "zds/zds_server.h"

namespace zt::agent {

// The node agent: keeps the pods of a file redirected and offers them to the proxies.
//
// A pod's rules come before any proxy is asked, and stay when the agent or the proxies go: without a proxy an
// enrolled pod has no working TCP, never plaintext (fail closed). What the kernel holds is checked again and
// again, and put right, rather than remembered. A pod taken out of the file leaves in two phases
// (redirector.h). Loop's thread; redirection calls block it for some milliseconds each, one pod a turn.
class Agent {
 public:
  struct Options {
    std::string pods_file;
    std::string zds_path{zds::kDefaultZdsPath};
    // The pods that may have rules of ours, for the next agent: one that was taken out of pods_file while no
    // agent ran must still leave. Belongs on a file system that a reboot empties, as it empties the
    // namespaces. Empty: next to the socket.
    std::string state_file = {};
    redirection::RedirectionOptions defaults = {};
    std::chrono::milliseconds verify_interval{10'000};  // also how often the file is read without being told
    std::chrono::milliseconds leave_limit{30'000};      // for carried connections to end by themselves
  };
  // Between attempts to set up a pod that failed.
  static constexpr std::chrono::milliseconds kRetryInterval{5000};
  // Between looks at the connections that a leaving pod still has.
  static constexpr std::chrono::milliseconds kLeavePoll{250};

  // Both outlive the agent.
  Agent(EventLoop& loop, redirection::Redirector& redirector, Options options);

  // Reads the file, tries the redirector, listens, enrols. An error is about the set-up as a whole: the file,
  // the socket, the kernel. A pod that cannot be enrolled is logged and tried again.
  Result<> start();
  // Reads the file again. A bad one is logged and refused whole; the pods stay as they are.
  void reload();
  // Un-enrols every pod, then calls `done` (for a clean exit).
  void leave_all(std::function<void()> done);

  struct Counts {
    size_t enrolled = 0;
    size_t failed = 0;
    size_t leaving = 0;
    uint64_t repairs = 0;  // since the start
    uint64_t refused_files = 0;
  };
  [[nodiscard]] Counts counts() const;
  [[nodiscard]] size_t proxies() const { return server_.proxies(); }

 private:
  enum class State : uint8_t {
    kFailed,  // rules are not in place; tried again
    kEnrolled,
    kLeaving,  // captures nothing new; waits for carried connections
    kDropped,  // proxies have been told to let go; the rules are taken out next
  };
  struct Pod {
    PodSpec spec;
    std::shared_ptr<const Netns> netns;
    State state = State::kFailed;
    Clock::time_point leave_by{};
    std::string last_error;  // logged once, not at every attempt
  };
  using Namespaces = std::vector<std::shared_ptr<const Netns>>;

  Result<Namespaces> open_namespaces(const std::vector<PodSpec>& specs) const;
  void apply(std::vector<PodSpec> specs, Namespaces namespaces);
  void put(PodSpec spec, std::shared_ptr<const Netns> netns, const std::set<Netns::Id>& claimed);
  void enroll(Pod& pod);
  void begin_leave(Pod& pod);
  void poll_leaving();
  void finish_leave(const Pod& pod);
  // Lets the pods of an earlier agent leave that are in the state file and not in the pods file.
  void adopt_left_over(const std::vector<PodSpec>& specs, const Namespaces& namespaces);
  // Names the pods there are and those to come: written before rules are made and after they are removed, so
  // that at worst it names one too many.
  void save_state(const std::vector<PodSpec>& coming = {});
  void release(const Netns::Id& netns, const std::string& new_uid);

  void verify_all();
  void verify_next();
  void verify(Pod& pod);
  // If the pod's path now leads to another namespace, the pod was made anew. False: the path leads nowhere
  // useful.
  bool follow_path(Pod& pod);
  void note_failure(Pod& pod, const Error& error, std::string_view doing);
  [[nodiscard]] static redirection::RedirectedPod target(const Pod& pod) { return {pod.netns, pod.spec.options}; }

  redirection::Redirector& redirector_;
  Options options_;
  zds::ZdsServer server_;
  FileWatch watch_;
  std::map<std::string, Pod, std::less<>> pods_;
  std::string refused_;  // why the file was refused last: said once
  std::string applied_text_;
  std::optional<Netns::Id> own_netns_;
  Timer verify_timer_;
  Timer verify_step_;
  std::vector<std::string> to_verify_;
  Timer retry_timer_;
  Timer leave_timer_;
  std::function<void()> left_;
  uint64_t repairs_ = 0;
  uint64_t refused_files_ = 0;
};

// Un-enrols the pods of a file without an agent, in two phases, blocking. All pods are tried; the error names
// those that failed.
Result<> leave_pods(redirection::Redirector& redirector, const std::vector<PodSpec>& specs, std::chrono::milliseconds limit);

}  // namespace zt::agent
