#pragma once
#include "base/result.h"
#include "ctl/command_line.h"

// Commands that go on until they are stopped (Ctrl-C, q), or as often as Options::times says. They write to standard output themselves.
namespace zt::ctl {

// A page of rates per pod, drawn anew each Options::every seconds; keys choose the order. Not on a terminal: tables, one after the other.
[[nodiscard]] ztunnel::CommandResult run_top(const Options& options);
// A line for each connection that opens or ends.
[[nodiscard]] ztunnel::CommandResult run_tap(const Options& options);

}  // namespace zt::ctl
