#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/kubernetes/pod_processes.h"
#include "base/event_loop.h"
#include "base/linux/netns.h"
#include "base/result.h"

namespace zt::agent {

// Where the namespaces of the node's pods are: as the CNI plugin said, or as a look through the processes shows. One look serves
// all who ask within a moment. Loop's thread.
class PodNamespaces {
 public:
  static constexpr std::chrono::milliseconds kFresh{200};

  // `proc`: the host's. `own`: a namespace that no pod can have.
  PodNamespaces(std::string proc, std::optional<Netns::Id> own) : proc_(std::move(proc)), own_(own) {}

  // The pods that may be asked for. What is known of a pod that is named again stays.
  void want(WantedPod pod);
  void forget(const std::string& uid);
  // A new sandbox of the pod, at this path in our file system. kInvalidInput: it is the node's network.
  Result<> told(const std::string& uid, const std::string& path);

  // The namespace, last known if it cannot be seen at the moment. kNotFound.
  [[nodiscard]] Result<std::shared_ptr<const Netns>> find(const std::string& uid);
  // Where it was found, for people.
  [[nodiscard]] std::string path(const std::string& uid) const;

  // Through all processes of the node, so far.
  [[nodiscard]] uint64_t looks() const { return looks_; }

 private:
  struct Known {
    WantedPod pod;
    FoundNetns last = {};
    bool told = false;
  };
  static bool still_holds(const Known& known);
  Result<> look();

  const std::string proc_;
  const std::optional<Netns::Id> own_;
  std::map<std::string, Known> pods_;
  std::map<std::string, FoundNetns> seen_;
  Clock::time_point seen_at_{};
  uint64_t looks_ = 0;
};

}  // namespace zt::agent
