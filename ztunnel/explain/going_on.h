#pragma once
#include <functional>

#include "base/yaml/value.h"

namespace zt::ztunnel {

// Reads `item` by `read`, which throws yaml::Refusal at the first mistake; then that value is passed over and the item read again, so
// that each mistake in it is said once. Returns whether `read` came to its end: what it made then lacks what was refused.
// One file, one thread.
bool read_going_on(const yaml::Value& item, const std::function<void()>& read,
                   const std::function<void(const yaml::Refusal&)>& mistake);

}  // namespace zt::ztunnel
