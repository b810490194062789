#pragma once
#include <chrono>
#include <cstdint>
#include <string_view>

#include "base/log.h"

// The access log (contract §10.4): target `access`, one line when a connection ends (and, at debug, one when
// it opens), fields in a fixed order, absent ones left out.
namespace zt::ztunnel {

extern log::Scope access_scope;

// Empty views are absent. They are read during the call only.
struct AccessEntry {
  std::string_view source_address;   // "10.0.0.1:40000", "[fd00::1]:40000"
  std::string_view source_workload;  // pod name, or the canonical service if there is none
  std::string_view source_namespace;
  std::string_view source_identity;  // with mutual TLS only
  std::string_view source_cluster;
  std::string_view destination_address;        // the address dialled; pod IP:15008; or the original destination
  std::string_view destination_hbone_address;  // authority
  std::string_view destination_service;        // hostname
  std::string_view destination_workload;
  std::string_view destination_namespace;
  std::string_view destination_identity;  // with mutual TLS only
  std::string_view destination_cluster;
  std::string_view direction;  // "inbound", "outbound"
  std::string_view path;       // "local": it took no tunnel, both ends are here. Ours, and absent otherwise
};

// "connection opened" at debug.
void log_connection_opened(const AccessEntry& entry);

// "connection complete": at info, or at error with `error` if that is not empty. Bytes are the application's:
// what it sent and received, so outbound sent = client → server, inbound sent = server → client.
struct AccessResult {
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  std::chrono::milliseconds duration{0};
  std::string_view error;
};
void log_connection_complete(const AccessEntry& entry, const AccessResult& result);

// "connection failed" at warn: refused before anything was known of it.
void log_connection_denied(std::string_view source_address, std::string_view destination_address, std::string_view direction,
                           std::string_view error);

}  // namespace zt::ztunnel
