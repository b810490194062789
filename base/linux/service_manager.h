#pragma once
#include <string_view>

namespace zt {

// Tells systemd (or whoever started us and set NOTIFY_SOCKET; sd_notify(3)) of a change: "READY=1", "STOPPING=1". Nothing happens without one, and nobody waits.
void tell_service_manager(std::string_view state);

}  // namespace zt
