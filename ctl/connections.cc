#include "ctl/connections.h"

#include <fmt/format.h>

#include <optional>

#include "base/address.h"
#include "mesh/spiffe.h"
#include "ztunnel/decide/authorize.h"
#include "ztunnel/explain/state.h"

namespace zt::ctl {

namespace {

// What the proxy says of the connection, were it to come now.
std::string policy_of(const ztunnel::KnownState& state, const SocketAddress& client, const SocketAddress& server,
                      std::string_view peer) {
  const workload_api::Workload* workload = state.snapshot->workload(state.network, server.ip);
  if (workload == nullptr) return {};
  const workload_api::PolicySubject subject{
      .source_ip = client.ip, .destination = server, .peer = SpiffeView::parse(peer).value_or(SpiffeView{})};
  const ztunnel::Verdict verdict = ztunnel::authorize(*state.snapshot, *workload, subject);
  if (!verdict.allowed()) return "DENIED NOW: " + verdict.text;
  return verdict.policy.empty() ? "none applies" : verdict.policy.str();
}

std::string end_text(const Names& names, std::string_view address) {
  const auto parsed = SocketAddress::parse(address);
  if (!parsed) return std::string(address);
  const std::string_view name = names.of(parsed->ip.to_string());
  return name.empty() ? std::string(address) : fmt::format("{}:{}", name, parsed->port);
}

std::string bytes_cell(const json::value& value) { return bytes_text(value.to_number<uint64_t>()); }

class Lister {
 public:
  Lister(const Dump& dump, const ConnectionsAsked& asked, Listing& listing)
      : dump_(dump), asked_(asked), listing_(listing), names_(dump) {}

  void pod(const json::object& status) {
    const json::value* info = status.if_contains("info");
    const json::value* connections = status.if_contains("connections");
    if (info == nullptr || !info->is_object() || connections == nullptr || !connections->is_object()) return;
    const auto ns = text_in(info->get_object(), "namespace"), name = text_in(info->get_object(), "name");
    if (!asked_.filter.takes(ns, dump_.node(), name)) return;
    for (const std::string_view direction : {"inbound", "outbound"}) {
      if (!asked_.direction.empty() && asked_.direction != direction) continue;
      const json::value* lines = connections->get_object().if_contains(direction);
      if (lines == nullptr || !lines->is_array()) continue;
      for (const auto& line : lines->get_array())
        if (line.is_object()) one(fmt::format("{}/{}", ns, name), direction, line.get_object());
    }
  }

 private:
  void one(const std::string& pod, std::string_view direction, const json::object& line) {
    const bool inbound = direction == "inbound";
    const auto source = text_in(line, "src"), dialled = text_in(line, "actualDst"), asked = text_in(line, "originalDst");
    json::object row{{"pod", pod}, {"direction", direction}, {"source", source}, {"destination", dialled}};
    row["originalDestination"] = asked;
    row["peer"] = end_text(names_, inbound ? source : !asked.empty() ? asked : dialled);
    row["port"] = end_text(names_, inbound ? dialled : source);
    row["protocol"] = text_in(line, "protocol");
    if (const json::value* own = line.if_contains("zt"); own != nullptr && own->is_object()) {
      const json::object& more = own->get_object();
      for (const char* name : {"ageMillis", "bytesSent", "bytesReceived"})
        if (const json::value* value = more.if_contains(name)) row[name] = *value;
      if (row.contains("bytesSent") && row.contains("bytesReceived"))
        row["bytes"] = row["bytesSent"].to_number<uint64_t>() + row["bytesReceived"].to_number<uint64_t>();
      if (more.contains("local")) row["protocol"] = "LOCAL";
      const auto identity = text_in(more, "peer");
      if (!identity.empty()) row["identity"] = identity;
      const auto client = SocketAddress::parse(source), server = SocketAddress::parse(dialled);
      if (inbound && client && server) row["policy"] = policy(*client, *server, identity);
    }
    listing_.rows.push_back(std::move(row));
  }

  std::string policy(const SocketAddress& client, const SocketAddress& server, std::string_view identity) {
    if (!tried_) {
      tried_ = true;
      if (auto state = ztunnel::state_of_dump(dump_.text, dump_.origin)) state_ = std::move(*state);
    }
    return state_ ? policy_of(*state_, client, server, identity) : "";
  }

  const Dump& dump_;
  const ConnectionsAsked& asked_;
  Listing& listing_;
  Names names_;
  bool tried_ = false;
  std::optional<ztunnel::KnownState> state_;
};

}  // namespace

Listing connections(const Dump& dump, const ConnectionsAsked& asked) {
  Listing listing{
      .columns = {{"POD", "pod"},
                  {"DIRECTION", "direction"},
                  {"PEER", "peer"},
                  {"PROTOCOL", "protocol"},
                  {"AGE", "ageMillis", [](const json::value& age) { return span_text(age.to_number<int64_t>()); }, true},
                  {"SENT", "bytesSent", bytes_cell, true},
                  {"RECEIVED", "bytesReceived", bytes_cell, true},
                  {"IDENTITY", "identity"},
                  {"POLICY", "policy"}},
      .rows = {},
      .none = "no connection is open (or none that the filter takes)"};
  Lister lister(dump, asked, listing);
  for (const auto& [uid, status] : dump.object("workloadState"))
    if (status.is_object()) lister.pod(status.get_object());
  sort_by(listing, "peer", false);
  sort_by(listing, "pod", false);
  const std::string_view order = asked.sort;
  if (order == "age") sort_by(listing, "ageMillis", true);
  if (order == "sent") sort_by(listing, "bytesSent", true);
  if (order == "received") sort_by(listing, "bytesReceived", true);
  if (order == "bytes") sort_by(listing, "bytes", true);
  if (order == "peer" || order == "protocol") sort_by(listing, order, false);
  return listing;
}

}  // namespace zt::ctl
