#pragma once
// A tunnel's move to another process, within one: the new tunnel gets a descriptor of its own for the same connection.
#include <fcntl.h>

#include <map>
#include <ostream>

#include "hbone/socket_transport.h"
#include "tests/hbone/tunnel_pair.h"

namespace zt::hbone {
inline std::ostream& operator<<(std::ostream& out, Unmovable why) { return out << unmovable_text(why); }
}  // namespace zt::hbone

namespace zt::hbone::testing {

using Users = std::map<int32_t, MemoryUser*>;

inline Users users_of(const std::deque<std::unique_ptr<MemoryUser>>& all) {
  Users users;
  for (const auto& user : all) {
    if (user->stream != nullptr) users[user->stream->id()] = user.get();
  }
  return users;
}

// The connection's other descriptor, as the next process gets it.
inline std::unique_ptr<Transport> same_connection(EventLoop& loop, const Tunnel& tunnel) {
  UniqueFd fd(fcntl(tunnel.socket(), F_DUPFD_CLOEXEC, 0));
  REQUIRE(fd);
  return std::make_unique<SocketTransport>(loop, std::move(fd));
}

struct Frozen {
  TunnelState state;
  std::unique_ptr<Transport> transport;
};

inline Frozen leave(EventLoop& loop, Tunnel& tunnel) {
  Frozen frozen;
  frozen.transport = same_connection(loop, tunnel);
  frozen.state = tunnel.freeze();
  return frozen;
}

// Owners that have users with streams: `users` by the ids of these.
inline std::unique_ptr<Tunnel> arrive(WorkerIo& io, Frozen frozen, const TunnelConfig& config, TunnelOwner& owner,
                                      const Users& users) {
  auto resumed = Tunnel::resume(io, io.budget, std::move(frozen.transport), frozen.state, config, owner,
                                [&](Stream& stream, const StreamState& state) -> StreamHandler* {
                                  const auto user = users.find(state.id);
                                  if (user == users.end()) return nullptr;
                                  user->second->stream = &stream;
                                  return user->second;
                                });
  if (!resumed) FAIL(resumed.error().text);
  return std::move(*resumed);
}

// Why not, or nothing and then `owner` has the new tunnel.
template <class Owner>
std::optional<Unmovable> hand_over(WorkerIo& io, const TunnelConfig& config, Owner& owner, const Users& users,
                                   TunnelState* seen = nullptr) {
  if (owner.tunnel == nullptr) return Unmovable::kClosed;
  owner.tunnel->prepare_handover();
  owner.tunnel->settle();
  if (const auto why = owner.tunnel->unmovable()) return why;
  Users still;  // settling may have ended some
  for (const auto& [id, user] : users) {
    if (user->stream != nullptr) still[id] = user;
  }
  Frozen frozen = leave(io.loop, *owner.tunnel);
  if (seen != nullptr) *seen = frozen.state;
  owner.tunnel->discard();
  owner.tunnel.reset();
  owner.tunnel = arrive(io, std::move(frozen), config, owner, still);
  owner.tunnel->thaw();
  for (const auto& [id, user] : still) {
    if (user->stream != nullptr) user->stream->resume_delivery();
  }
  return std::nullopt;
}

// As soon as it can be.
template <class Owner, class GetUsers>
void hand_over_soon(EventLoop& loop, WorkerIo& io, const TunnelConfig& config, Owner& owner, GetUsers users,
                    TunnelState* seen = nullptr) {
  std::optional<Unmovable> why;
  const bool moved =
      loop.run_until([&] { return !(why = hand_over(io, config, owner, users(), seen)); }, std::chrono::seconds(10));
  if (!moved) FAIL(unmovable_text(*why));
}

}  // namespace zt::hbone::testing
