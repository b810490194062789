#pragma once
#include <memory>
#include <utility>

#include "mesh/reason.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/inbound.h"

namespace zt::ztunnel {

// What one tunnel from a peer is to its pod. Lives until the tunnel has closed, or goes on in another process.
class Inbound::InboundTunnel final : public WalkList<InboundTunnel>::Element, public Unused, public hbone::TunnelOwner {
 public:
  // So many are told to leave, or held against new revocation lists, before others have their turn.
  static constexpr size_t kPiece = 32;

  InboundTunnel(Inbound& inbound, SocketAddress peer, SocketAddress local, bool transparent)
      : inbound_(inbound), peer_(peer), local_(local), transparent_(transparent) {}

  void on_request(hbone::Stream& stream, hbone::Headers headers) noexcept override {
    if (inbound_.stopped_) return stream.abandon(hbone::H2Error::kRefusedStream);
    Unused::unlink();
    inbound_.tasks_.spawn(inbound_.accept_connect(*this, stream, std::move(headers)));
  }
  void on_streams_changed(hbone::Tunnel& tunnel) noexcept override {
    if (tunnel.streams() == 0 && !leaving_ && !Unused::is_linked()) inbound_.unused_.push_back(*this);
  }
  void on_tunnel_closed(hbone::Tunnel&, const Error& why) noexcept override {
    note_tunnel_end(inbound_.worker_, Direction::kInbound, peer_, local_, why);
    if (why.reason == Reason::kPeerFlood || why.reason == Reason::kH2Failed)
      inbound_.pod_.counts->handshakes->note_abuse(peer_.ip, Clock::now());
    // Last use of *this: connections on it were told by their streams.
    inbound_.forget(*this);
  }

 private:
  friend class Inbound;
  Inbound& inbound_;
  SocketAddress peer_, local_;
  bool transparent_;
  bool leaving_ = false;  // told to drain, to make room
  Counted in_pod_;
  std::shared_ptr<const ProvenPeer> identity_;  // null: TLS without a SPIFFE id
  OpenSocket socket_;
  std::unique_ptr<hbone::Tunnel> tunnel_;
};

}  // namespace zt::ztunnel
