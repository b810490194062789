// Tunnels from peers on their way to another process, and from one (docs/handover.md).
#include "handover/unit.h"
#include "hbone/socket_transport.h"
#include "ztunnel/proxy/inbound.h"
#include "ztunnel/proxy/inbound_tunnel.h"

namespace zt::ztunnel {

bool Inbound::prepare_some_handover(bool anew) {
  return prepared_.some(tunnels_, anew, InboundTunnel::kPiece, [](InboundTunnel& each) { each.tunnel_->prepare_handover(); });
}

std::optional<Inbound::Held> Inbound::next_leaving() {
  InboundTunnel* const next = leaving_.next();
  if (next == nullptr) return std::nullopt;
  return Held{
      .owner = *next, .tunnel = *next->tunnel_, .peer = next->peer_, .local = next->local_, .transparent = next->transparent_};
}

Result<std::unique_ptr<Inbound::InboundTunnel>> Inbound::resume(UniqueFd socket, const handover::TunnelUnit& unit,
                                                                const hbone::AttachStream& attach) {
  auto owner = std::make_unique<InboundTunnel>(*this, unit.peer, unit.local, unit.transparent);
  if (unit.tunnel.peer) owner->identity_ = std::make_shared<const ProvenPeer>(*unit.tunnel.peer);
  const PeerAccounts::Ptr memory = pod_.peers.of(unit.peer.ip);
  ZT_ASSIGN(owner->tunnel_, hbone::Tunnel::resume(worker_.io(), *memory,
                                                  std::make_unique<hbone::SocketTransport>(worker_.loop(), std::move(socket)),
                                                  unit.tunnel, worker_.settings().tunnel, *owner, attach));
  owner->tunnel_->keep_account(memory);
  return owner;
}

hbone::Tunnel& Inbound::keep(std::unique_ptr<InboundTunnel> resumed) {
  hbone::Tunnel& tunnel = *resumed->tunnel_;
  enter(std::move(resumed), OpenSocket(worker_.traffic(), Reporter::kDestination), Counted(pod_.counts->tunnels));
  tunnel.thaw();
  return tunnel;
}

}  // namespace zt::ztunnel
