#pragma once
#include "base/result.h"
#include "ctl/command_line.h"

// What commands do that are more than a list. Each blocks.
namespace zt::ctl {

[[nodiscard]] Result<std::string> show_status(const Options& options);
[[nodiscard]] Result<std::string> log_levels(const Options& options);
[[nodiscard]] Result<std::string> save_dump(const Options& options);
[[nodiscard]] Result<std::string> show_version(const Options& options);
[[nodiscard]] Result<std::string> show_recent(const Options& options);
[[nodiscard]] ztunnel::CommandResult check_node(const Options& options);
[[nodiscard]] ztunnel::CommandResult explain(const Options& options);

}  // namespace zt::ctl
