#pragma once
#include "base/log.h"

namespace zt::workload_api {

extern log::Scope xds_log;  // target "xds"

}  // namespace zt::workload_api
