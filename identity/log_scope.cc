#include "identity/log_scope.h"

namespace zt::identity {

log::Scope log_scope("identity");

}  // namespace zt::identity
