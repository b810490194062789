#pragma once
#include <string>
#include <string_view>

namespace zt {

// A pod by what names it to people and to its certificate. ZDS, PROXY_WORKLOAD_INFO and the agent's file of pods say these
// three, and the workload that they are of is found by them (contract §8.2).
struct PodName {
  std::string name;
  std::string ns;
  std::string service_account;
  friend bool operator==(const PodName&, const PodName&) = default;
};

// The same, owned by somebody else.
struct PodNameView {
  std::string_view name;
  std::string_view ns;
  std::string_view service_account;

  PodNameView(std::string_view pod_name, std::string_view pod_ns, std::string_view account)
      : name(pod_name), ns(pod_ns), service_account(account) {}
  PodNameView(const PodName& pod) : PodNameView(pod.name, pod.ns, pod.service_account) {}
  friend bool operator==(const PodNameView&, const PodNameView&) = default;
};

}  // namespace zt
