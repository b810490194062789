#pragma once
#include "base/log.h"

namespace zt::identity {

extern log::Scope log_scope;  // target "identity"

}  // namespace zt::identity
