#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "agent/pods/pods_file.h"
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
// (redirector.h).
//
// What fails for one pod costs that pod: it stays as it is, is said once, and is tried again after growing
// pauses, for ever. Nothing is forgotten before its rules are gone.
//
// Loop's thread, in one dialect: every pod has one next step and a time for it, and one timer takes the step
// that is due longest, one a turn. A step calls the redirector once, which blocks the loop for some milliseconds.
class Agent {
 public:
  struct Options {
    // Empty: another source tells of pods one by one (put_pod() and its neighbours).
    std::string pods_file;
    std::string zds_path{zds::kDefaultZdsPath};
    // The pods that may have rules of ours, for the next agent: one that was taken out of pods_file while no
    // agent ran must still leave. Belongs on a file system that a reboot empties, as it empties the
    // namespaces. Empty: next to the socket. Not used without pods_file.
    std::string state_file = {};
    redirection::RedirectionOptions defaults = {};
    std::chrono::milliseconds verify_interval{10'000};  // also how often the file is read without being told
    std::chrono::milliseconds leave_limit{30'000};      // for carried connections to end by themselves
    // How long proxies go on serving a pod that leaves, whoever it carries: until those who reach it by the tunnel have been told.
    std::chrono::milliseconds least_leave{0};
    // Where a pod's namespace is. Null: at its netns_path.
    std::function<Result<std::shared_ptr<const Netns>>(const PodSpec&)> find_namespace = {};
    // Standing or error of this pod may have changed. May not call the agent back but to ask.
    std::function<void(const std::string& uid)> on_change = {};
  };
  // Between attempts at what failed for a pod: the first pause, doubled up to the last.
  static constexpr std::chrono::milliseconds kFirstRetry{250};
  static constexpr std::chrono::milliseconds kMostRetry{10'000};
  // Between looks at the connections that a leaving pod still has, and from the proxies' being told to let go of
  // a pod to its rules being removed.
  static constexpr std::chrono::milliseconds kLeavePoll{250};
  // What leave_all() takes beyond leave_limit before it gives up on pods that cannot be cleaned.
  static constexpr std::chrono::milliseconds kLeaveMargin{5000};

  // Both outlive the agent.
  Agent(EventLoop& loop, redirection::Redirector& redirector, Options options);

  // Reads the file, tries the redirector, listens, enrols. An error is about the set-up as a whole: the file,
  // the socket, the kernel. A bad entry and a pod that cannot be enrolled are logged, the latter is tried again.
  // Without a file: tries the redirector and no more; serve() is the rest.
  Result<> start();

  // For a source that is no file. What was put before serve() is enrolled before any proxy is heard, so that none is told of
  // fewer pods than there are and lets go of the others.
  Result<> serve();
  // The pod is to be enrolled, as this says; also if it is leaving. Saying the same again tries again what failed.
  void put_pod(PodSpec spec);
  // The pod, which may have rules of an earlier agent, leaves in two phases. kNotFound: it is not known, and its namespace cannot
  // be found.
  Result<> leave_pod(const PodSpec& spec);
  // The pod is gone and its namespace with it: proxies let go of it at once, and there is nothing to clean.
  void forget_pod(const std::string& uid);

  enum class Standing : uint8_t {
    kOut,         // no rules, as far as the agent knows
    kWaiting,     // its namespace cannot be had, or its rules are about to be set up
    kUnset,       // its rules cannot be set up
    kRedirected,  // rules stand; no proxy has accepted it yet
    kServed,      // and a proxy has
    kLeaving,     // captures no new connection any more
  };
  // One hiccup is no reason to have the whole mesh call a pod in plain text: failures in a row of setting up its rules, some 8 s.
  static constexpr uint32_t kUnsetFrom = 5;
  [[nodiscard]] Standing standing(std::string_view uid) const;
  // Has the newest proxy accepted it as it is now?
  [[nodiscard]] bool is_served(const std::string& uid) const { return server_.is_served(uid); }
  // What is wrong with it now, or nothing.
  [[nodiscard]] std::string failure(std::string_view uid) const;

  // Reads the file again. One that cannot be read as a whole is logged and refused, and the pods stay as they
  // are. A bad entry is logged and its pod stays as it is; while one does not say whose it is, no pod leaves.
  void reload();
  // Un-enrols every pod, then calls `done` (for a clean exit). Pods that cannot be cleaned are tried again until
  // leave_limit + kLeaveMargin have passed; they are named then.
  void leave_all(std::function<void()> done);

  struct Counts {
    size_t enrolled = 0;
    size_t failed = 0;       // rules could not be set up
    size_t waiting = 0;      // the file's entry waits for its namespace
    size_t leaving = 0;      // some of their rules are still there
    size_t bad_entries = 0;  // of the file in force
    uint64_t repairs = 0;    // this and the following: since the start
    uint64_t refused_files = 0;
    uint64_t failed_removals = 0;
  };
  [[nodiscard]] Counts counts() const;
  // What is wrong now, by uid (bad entries that do not say whose they are: by their place in the list of such).
  [[nodiscard]] std::map<std::string, std::string> failures() const;
  [[nodiscard]] size_t proxies() const { return server_.proxies(); }

 private:
  enum class State : uint8_t {
    kAbsent,    // has no namespace (yet), and so no rules
    kUnset,     // rules are not in place: set up next, or again
    kEnrolled,  //
    kStopping,  // to leave, but still captures: told to stop next, or again. Proxies serve it meanwhile
    kLeaving,   // captures nothing new; waits for carried connections
    kDropped,   // proxies have been told to let go: the rules are taken out next, or again
  };
  static constexpr Clock::time_point kNever = Clock::time_point::max();
  struct Pod {
    PodSpec spec;
    std::shared_ptr<const Netns> netns;  // nullptr: kAbsent
    State state = State::kAbsent;
    // What the file says now, if its namespace cannot be had: looked for at every step. The rest is as it was.
    std::optional<PodSpec> wanted = {};
    Clock::time_point due = kNever;  // of its next step
    uint32_t failures = 0;           // in a row, of that step
    Clock::time_point leave_from{}, leave_by{};
    std::string last_error = {};            // logged once, not at every attempt
    bool served = false;                    // a proxy has accepted it, in this namespace
    std::optional<Netns::Id> offered = {};  // in which it was offered last
    [[nodiscard]] bool has(const Netns::Id& id) const { return netns && netns->id() == id; }
    [[nodiscard]] bool leaves() const { return state == State::kStopping || state == State::kLeaving; }
    [[nodiscard]] redirection::RedirectedPod target() const { return {netns, spec.options}; }
  };
  using Pods = std::map<std::string, Pod, std::less<>>;
  // What the good entries of a file name, to be had by their pods when all of it is applied.
  struct Claims {
    std::set<Netns::Id> namespaces;
    std::set<std::string, std::less<>> uids;
  };

  Result<std::shared_ptr<const Netns>> find(const PodSpec& spec) const;
  void take_first_steps();
  void changed(const std::string& uid) const;
  void answered(const std::string& uid, const std::string& error);
  [[nodiscard]] const PodSpec* owner_beside(const Netns::Id& id, const Pod* except) const;
  void apply(PodsFile file);
  // The namespace that a pod of the file shall have. `owner_of`: the pod that has a namespace, or nullptr.
  using OwnerOf = std::function<const PodSpec*(const Netns::Id&)>;
  Result<std::shared_ptr<const Netns>> open_namespace(const PodSpec& spec, const OwnerOf& owner_of) const;
  void let_others_leave(const Claims& claims);
  void put(PodSpec spec, std::shared_ptr<const Netns> netns, const Claims& claims);
  void put_waiting(PodSpec spec, const Error& error);
  void begin_leave(Pod& pod);
  void release(const Netns::Id& netns, const std::string& new_uid, const Claims& claims);
  // Lets the pods of an earlier agent leave that are in the state file and not in the pods file.
  void adopt_left_over(const PodsFile& file);
  // Names the pods there are and those to come: written before rules are made and after they are removed, so
  // that at worst it names one too many.
  void save_state(const std::vector<PodSpec>& coming = {});

  void step_next();
  void schedule();
  void step(Pod& pod);  // may erase it
  void enroll(Pod& pod);
  void stop_capturing(Pod& pod);
  void wait_for_carried(Pod& pod);  // may erase it
  void drop(Pod& pod);              // erases it, or what the file wants of it stays
  void remove_rules(Pod& pod);      // of former_; may erase it
  bool look_for_namespace(Pod& pod);
  void offer(Pod& pod);
  void finish_leaving();

  void verify_all();
  void verify_next();
  void verify(Pod& pod);
  // If the pod's path now leads to another namespace, the pod was made anew. False: the path leads nowhere
  // useful.
  bool follow_path(Pod& pod);
  // Says it, once, and puts the pod's next step off. note_failure() only says it.
  void retry_later(Pod& pod, const Error& error, std::string_view doing);
  void note_failure(Pod& pod, const Error& error, std::string_view doing);

  redirection::Redirector& redirector_;
  Options options_;
  zds::ZdsServer server_;
  FileWatch watch_;
  Pods pods_;
  std::list<Pod> former_;  // kDropped: of pods that are gone or have moved
  std::vector<BadEntry> bad_entries_;
  std::string refused_;  // why the file was refused last: said once
  std::string applied_text_;
  std::optional<Netns::Id> own_netns_;
  Timer step_timer_;
  Timer verify_timer_;
  Timer verify_step_;
  std::vector<std::string> to_verify_;
  Timer leave_limit_;
  std::function<void()> left_;
  uint64_t repairs_ = 0;
  uint64_t refused_files_ = 0;
  uint64_t failed_removals_ = 0;
};

}  // namespace zt::agent
