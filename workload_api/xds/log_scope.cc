#include "workload_api/xds/log_scope.h"

namespace zt::workload_api {

log::Scope xds_log{"xds"};

}  // namespace zt::workload_api
