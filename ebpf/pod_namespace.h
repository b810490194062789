#pragma once
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "ebpf/redirect.h"

// What eBPF redirection has to know of a pod's namespace and to set there. All functions act on the calling thread's.
namespace zt::redirection {

struct PodNamespace {
  uint64_t cookie = 0;                // the kernel's name for it, which programs see; never used again
  std::vector<zt_address> addresses;  // of all interfaces, but not 127.0.0.0/8 and ::1
  zt_address own4{}, own6{};          // what a default route takes for the source; 0: there is none
};
Result<PodNamespace> look_at_namespace();

// Whether answers take over the mark of the packet that they answer: those of connections accepted hence
// (net.ipv4.tcp_fwmark_accept, for IPv6 as well) and refusals (net.ipv4.fwmark_reflect, net.ipv6.fwmark_reflect).
[[nodiscard]] bool answers_keep_marks();
Result<> set_answers_keep_marks(bool on);

// Whether a proxy listens at 15006 here already.
Result<bool> has_proxy();
// Its sockets, taken from the processes that have them (needs CAP_SYS_PTRACE); empty if there are none. kNotFound: no process that
// can be seen has them.
Result<std::vector<UniqueFd>> take_listeners();

}  // namespace zt::redirection
