#pragma once
#include "base/result.h"
#include "redirection/redirector.h"

// The policy route of an enrolled pod: "fwmark 0x111/0xfff lookup 100" (priority 32764) and, in table 100,
// "everything is local on lo". It leads the application's replies to a client whose address the proxy
// borrowed back into the proxy's socket (redirection contract §2.1, §2.3). All functions act on the calling
// thread's namespace.
namespace zt::redirection {

// IPv6 as well, unless the pod's lo has IPv6 switched off. Existing entries are left; those of a family that
// is not wanted are removed. If another interface of the pod has IPv6, it is switched on for lo first: the proxy
// reaches the application over lo. That stays when the pod leaves: whose wish it was by then cannot be told.
Result<> add_policy_routes(bool ipv6);
// Nothing there is success.
Result<> remove_policy_routes();
Result<Deviations> verify_policy_routes(bool ipv6);

// Open TCP connections that the proxy carries for the pod's application; needs CAP_NET_ADMIN to see marks.
Result<size_t> count_carried_connections();

}  // namespace zt::redirection
