#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/linux/netns.h"
#include "base/result.h"

// How a pod's traffic is led to the proxy. One interface, so that other mechanisms (eBPF, iptables) can stand
// in its place.
namespace zt::redirection {

// What differs between pods.
struct RedirectionOptions {
  bool dns = false;      // capture DNS (UDP and TCP 53) to 15053; only where the proxy serves it
  bool ingress = false;  // leave inbound plaintext alone (ambient.istio.io/bypass-inbound-capture)
  bool ipv6 = true;      // capture IPv6 too
  // Take over connections that were open before as well. They break: no proxy knows them. Off, they go on as
  // they were, around the proxy and its policies, until they end; on is for those who prefer to cut them
  // (upstream's behaviour).
  bool cut_established = false;
  // TCP arriving on these is treated as outbound (virtual machines in the pod). Checked by
  // valid_interface_name().
  std::vector<std::string> virtual_interfaces = {};
  friend bool operator==(const RedirectionOptions&, const RedirectionOptions&) = default;
};

// kInvalidInput: not something that can name a network interface, or that would mean something else in an nft text.
[[nodiscard]] Result<> valid_interface_name(std::string_view name);

struct RedirectedPod {
  std::shared_ptr<const Netns> netns;
  RedirectionOptions options;
};

// What the kernel's state lacks, or has in excess, in words; empty = as it should be.
using Deviations = std::vector<std::string>;

// All calls work on the kernel's real state, remember nothing about pods, and take some milliseconds. Errors
// say what failed and where; the caller adds whose pod it was. One thread at a time.
class Redirector {
 public:
  virtual ~Redirector() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;

  // Tries the mechanism without touching any pod; the text says what this kernel or process lacks.
  virtual Result<> probe() = 0;
  // New connections of the pod go to the proxy from here on. Idempotent; atomic as far as packets can tell.
  virtual Result<> enroll(const RedirectedPod& pod) = 0;
  // First phase of leaving: new connections go their own way; those that the proxy carries go on.
  virtual Result<> stop_capturing(const RedirectedPod& pod) = 0;
  // How many established connections the proxy carries in the pod: what stop_capturing() has to wait for.
  virtual Result<size_t> carried_connections(const RedirectedPod& pod) = 0;
  // Second phase: removes all that is ours and nothing else. Nothing there is success.
  virtual Result<> unenroll(const RedirectedPod& pod) = 0;
  // Compares the kernel's state with what enroll() would have made. enroll() repairs every deviation.
  virtual Result<Deviations> verify(const RedirectedPod& pod) = 0;
};

}  // namespace zt::redirection
