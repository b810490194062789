#pragma once
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "agent/agent.h"
#include "agent/kubernetes/pod_namespaces.h"
#include "agent/kubernetes/selection.h"
#include "base/event_loop.h"
#include "kubernetes/api.h"
#include "kubernetes/list_watch.h"
#include "redirection/nftables/host_probes.h"

namespace zt::agent {

// Kubernetes as the source of the agent's pods: the node's pods and all namespaces are listed and watched, each pod is judged
// by what they say now, and the agent told of what that changes. Each pod's status annotation follows what is really so: it is
// "enabled" once its rules stand and a proxy has accepted it, "pending" between the two, and away once the pod leaves. One
// pod that cannot be handled costs itself. Loop's thread.
class KubernetesSource {
 public:
  struct Options {
    std::string node;  // NODE_NAME
    SelectionRules rules = {.selectors = default_selectors(), .excluded_namespaces = {"kube-system"}};
    redirection::RedirectionOptions defaults = {};
    kubernetes::ListWatch::Options watch = {};  // path and selector are set here
    // The addresses that kubelet probes enrolled pods at; told before their rules stand, and again whenever it changes.
    std::function<void(redirection::ProbedPods)> on_probed = {};
    // How long a call of the CNI plugin waits, which itself waits 5 s.
    std::chrono::milliseconds cni_limit{4500};
  };
  static constexpr std::chrono::milliseconds kFirstRetry{250}, kMostRetry{10'000};
  static constexpr std::chrono::milliseconds kSettleAgain{1000};
  static constexpr size_t kMostPatches = 8;  // at a time

  // All outlive the source. Agent::Options::find_namespace asks `namespaces`, and on_change calls on_pod_changed().
  KubernetesSource(EventLoop& loop, kubernetes::Api& api, Agent& agent, PodNamespaces& namespaces, Options options);
  ~KubernetesSource();

  // `on_serving`: both lists have been read, what is enrolled stands, and the agent serves proxies. Or that last failed.
  void start(std::function<void(const Result<>&)> on_serving);
  void on_pod_changed(const std::string& uid);
  [[nodiscard]] bool serving() const { return serving_; }

  // What the plugin asks when a sandbox has been made, before anything runs in it. `done` is called once: success when the pod
  // is redirected and a proxy serves it, or is none of the mesh's.
  struct CniAdd {
    std::string ns, name;
    std::string netns;  // path in our file system
    std::vector<std::string> ips;
    std::string uid = {};  // as kubelet has it, if the plugin says so
  };
  struct Counts {
    uint64_t added = 0, changed = 0, gone = 0;  // pods of the node
    uint64_t patch_failures = 0, api_failures = 0;
  };
  [[nodiscard]] Counts counts() const;
  using CniDone = std::function<void(const Result<>&)>;
  void cni_add(CniAdd add, CniDone done);

 private:
  struct Pod {
    kubernetes::Object object;
    std::optional<Wish> wish = {};  // what was done last
    std::optional<redirection::RedirectionOptions> options = {};
    std::vector<std::string> warnings = {};
    std::vector<std::string> cni_ips = {};  // of a sandbox that the API does not know the addresses of yet
    std::vector<std::string> ips = {};      // as its namespace was looked for last
    std::string why = {};
    // What the annotation is to the API, as last heard or said; empty: it has none.
    std::string annotation = {};
    std::unique_ptr<kubernetes::ApiCall> patch = {};
    std::string patching = {};
    unsigned patch_status = 0;
    std::string patch_answer = {};
    uint32_t patch_failures = 0;
    Clock::time_point patch_due{};
    std::string patch_error = {};
    std::string leave_error = {};
    bool listed = false;  // the API has shown it in its list
  };
  struct Waiting {
    CniAdd add;
    CniDone done;
    Clock::time_point until;
    std::string uid = {};  // once it is known
    std::string why = "the API does not show the pod";
  };

  void reconcile();
  void tell_probed() const;
  [[nodiscard]] Verdict wish_of(const kubernetes::Object& object) const;
  [[nodiscard]] static const std::vector<std::string>& addresses_of(const Pod& pod);
  void settle(Pod& pod);
  void enrol(Pod& pod, bool has_sandbox = false);
  void say(Pod& pod, const Verdict& verdict);
  [[nodiscard]] std::optional<std::string> annotation_of(const Pod& pod) const;
  void annotate(Pod& pod);
  void send_patch(Pod& pod, const std::string& wanted);
  void patched(const std::string& uid, const Result<>& end);
  void schedule();
  void on_timer();
  void try_cni(Waiting& waiting);
  void try_all_cni();
  [[nodiscard]] const kubernetes::Object* object_of(const Waiting& waiting) const;

  EventLoop& loop_;
  kubernetes::Api& api_;
  Agent& agent_;
  PodNamespaces& namespaces_;
  const Options options_;
  kubernetes::ListWatch pods_, spaces_;
  std::function<void(const Result<>&)> on_serving_;
  bool serving_ = false;
  std::map<std::string, Pod> known_;  // by uid
  std::set<std::string> changed_;     // told of by the agent: settled in a turn of their own
  std::list<Waiting> waiting_;
  size_t patches_ = 0;
  Counts counts_;
  bool unsettled_ = false;  // something is to be tried again without being told
  Clock::time_point settle_at_{};
  Timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace zt::agent
