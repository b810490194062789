#pragma once

namespace zt::rpc {

// gRPC serves all callbacks of a process from one queue, which it makes for the first channel that needs it
// and takes down with the last one. Taking it down races with its own threads and then ends the process
// ("assertion failed: prior > 0", gRPC 1.51), which a control plane that is away would bring about: each
// attempt is a channel that comes and goes. The first call of this makes the queue stay for as long as the
// process.
void keep_callback_queue();

}  // namespace zt::rpc
