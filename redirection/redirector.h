#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "base/linux/netns.h"
#include "base/result.h"

// How a pod's traffic is led to the proxy: one interface, and the same behaviour of all that implement it
// (nftables/, iptables/, ebpf/ beside this; backends/ chooses).
namespace zt::redirection {

// Ports, both ends included.
struct PortRange {
  uint16_t first = 0, last = 0;
  friend bool operator==(const PortRange&, const PortRange&) = default;
};
// "80" or "8000-8080". kInvalidInput.
[[nodiscard]] Result<PortRange> parse_port_range(std::string_view text);
// "10.0.0.0/8", "fd00::/8" or an address. kInvalidInput.
[[nodiscard]] Result<Cidr> parse_range(std::string_view text);

// What goes around the proxy, and so around encryption and policies, because the pod's owner says so.
struct Exclusions {
  static constexpr size_t kMost = 32;  // of each; every one is a rule that first packets are compared with
  std::vector<PortRange> ports = {};   // that are connected to
  std::vector<Cidr> ranges = {};       // of the other end
  [[nodiscard]] bool empty() const { return ports.empty() && ranges.empty(); }
  friend bool operator==(const Exclusions&, const Exclusions&) = default;
};

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
  // TCP into the pod; tunnels are served none the less.
  Exclusions inbound = {};
  // TCP out of the pod, and DNS.
  Exclusions outbound = {};
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

enum class Presence : uint8_t {
  kNone,
  kStopped,  // something is there, and leads no new connection to the proxy
  kCaptures,
};

// All calls work on the kernel's real state, remember nothing about pods, and take some milliseconds. Errors
// say what failed and where; the caller adds whose pod it was. One thread at a time.
class Redirector {
 public:
  virtual ~Redirector() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;

  // Why such a pod is not for this backend, whatever the kernel can; empty: it is.
  [[nodiscard]] virtual std::string_view unsuited(const RedirectionOptions& /*options*/) const { return {}; }
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

  // For the time when another backend captures the pod: what this one made, or a peer by the same means. Does not count
  // what the backends have in common (policy routes).
  virtual Result<Presence> presence(const RedirectedPod& pod) = 0;
  // Removes it, and leaves what the backends have in common. No connection notices while another captures and, if this
  // one translates, that one does too.
  virtual Result<> make_way(const RedirectedPod& pod) = 0;
  // Whether carried connections live by netfilter's translation of their addresses.
  [[nodiscard]] virtual bool translates() const { return true; }
};

// Names the lines that are missing or too many in `actual`, in words such as "missing in <where>: <line>"; the same
// lines in another order are named too.
void compare_lines(std::string_view where, const std::vector<std::string>& wanted, const std::vector<std::string>& actual,
                   Deviations& deviations);

// A fresh, empty network namespace: what a backend makes of options is learnt there, as the kernel and the tools
// print it.
[[nodiscard]] Result<Netns> make_scratch_netns();

}  // namespace zt::redirection
