#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/memory_account.h"
#include "hbone/tls/context.h"
#include "hbone/tunnel_pool.h"
#include "ztunnel/decide/authorize.h"
#include "ztunnel/proxy/handshake_admission.h"
#include "ztunnel/proxy/shared_tls_contexts.h"
#include "ztunnel/proxy/sockets.h"

namespace zt::ztunnel {

// What all workers are made from; immutable after start.
struct WorkerSettings {
  SocketOptions sockets{};  // netns is filled per pod
  hbone::TunnelConfig tunnel{};
  hbone::TunnelPoolConfig pool{};
  hbone::TlsOptions tls{};
  std::shared_ptr<SharedTlsContexts> shared_contexts = std::make_shared<SharedTlsContexts>();  // of all workers
  Clock::duration handshake_timeout{};
  Clock::duration connect_answer_timeout{};
  Clock::duration certificate_timeout{};
  Clock::duration policy_wait{};
  MissingPolicy missing_policy = MissingPolicy::kUndecided;
  Clock::duration source_wait = std::chrono::milliseconds(250);  // Lookups::find_source()
  bool response_baggage = true;
  bool localhost_app_tunnel = true;
  bool local_direct = false;  // pods of this node reach each other without a tunnel
  bool policy_info_logging = false;
  std::string network{};
  // Names that SOCKS5 clients say: how short ones are completed, and whose namespace is preferred.
  std::string cluster_domain = "cluster.local";
  std::optional<std::vector<std::string>> name_search{};  // dedicated mode: those of resolv.conf
  std::optional<std::string> preferred_ns{};
  std::vector<uint16_t> illegal_ports{};
  HandshakeLimits handshakes{};
  uint32_t tunnels_per_pod = 10'000;
  uint32_t connections_per_pod = 100'000;
  MemoryLimit* memory = nullptr;  // what all workers together may hold for others; outlives them
  Transparency transparency = Transparency::kBestEffort;
};

}  // namespace zt::ztunnel
