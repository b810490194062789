#include "ctl/live.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/address.h"
#include "base/json_writer.h"
#include "ctl/listing.h"
#include "mesh/reason.h"
#include "ztunnel/explain/admin_client.h"

namespace zt::ctl {

namespace {

uint64_t number_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr) return 0;
  if (value->is_uint64()) return value->get_uint64();
  return value->is_int64() && value->get_int64() > 0 ? static_cast<uint64_t>(value->get_int64()) : 0;
}

OpenLine line_of(const json::object& from, const json::object& counts, std::string_view direction, std::string pod) {
  return {.pod = std::move(pod),
          .direction = std::string(direction),
          .source = std::string(text_in(from, "src")),
          .destination = std::string(text_in(from, "actualDst")),
          .asked = std::string(text_in(from, "originalDst")),
          .protocol = std::string(text_in(from, "protocol")),
          .peer = std::string(text_in(counts, "peer")),
          .id = number_in(counts, "id"),
          .sent = number_in(counts, "bytesSent"),
          .received = number_in(counts, "bytesReceived")};
}

std::string key_of(const OpenLine& line) { return fmt::format("{} {} {} {}", line.direction, line.source, line.pod, line.id); }

void read_pod(const json::object& status, Look& look) {
  const json::value* info = status.if_contains("info");
  if (info == nullptr || !info->is_object()) return;
  const std::string pod = fmt::format("{}/{}", text_in(info->get_object(), "namespace"), text_in(info->get_object(), "name"));
  look.pods.push_back(pod);
  const json::value* connections = status.if_contains("connections");
  if (connections == nullptr || !connections->is_object()) return;
  for (const std::string_view direction : {"inbound", "outbound"}) {
    const json::value* lines = connections->get_object().if_contains(direction);
    if (lines == nullptr || !lines->is_array()) continue;
    for (const auto& value : lines->get_array()) {
      const json::object* line = value.if_object();
      if (line == nullptr) continue;
      const json::value* own = line->if_contains("zt");
      OpenLine open = line_of(*line, own != nullptr && own->is_object() ? own->get_object() : json::object(), direction, pod);
      if (own != nullptr && own->is_object() && own->get_object().contains("local")) open.protocol = "LOCAL";
      std::string key = key_of(open);
      look.open.insert_or_assign(std::move(key), std::move(open));
    }
  }
}

bool takes(const Filter& filter, std::string_view pod) {
  const auto slash = pod.find('/');
  if (slash == std::string_view::npos) return filter.ns.empty() && filter.pod.empty();
  const Filter without_node{.ns = filter.ns, .node = {}, .pod = filter.pod};
  return without_node.takes(pod.substr(0, slash), {}, pod.substr(slash + 1));
}

std::string end_name(const Names& names, std::string_view address) {
  const auto parsed = SocketAddress::parse(address);
  if (!parsed) return std::string(address);
  const auto name = names.of(parsed->ip.to_string());
  return name.empty() ? std::string(address) : fmt::format("{}:{}", name, parsed->port);
}

// Whose it is, where the proxy had not yet known: by its address.
std::string pod_of(const OpenLine& line, const Names& names) {
  if (!line.pod.empty()) return line.pod;
  const auto address = SocketAddress::parse(line.direction == "outbound" ? line.source : line.destination);
  return address ? std::string(names.of(address->ip.to_string())) : std::string();
}

std::string whom(const OpenLine& line, const Names& names) {
  const bool inbound = line.direction == "inbound";
  const std::string_view server =
      line.asked.empty() || inbound ? std::string_view(line.destination) : std::string_view(line.asked);
  return fmt::format("{} → {}", end_name(names, line.source), end_name(names, server));
}

std::string clock_text(int64_t at_ms) {
  const time_t seconds = at_ms / 1000;
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  char text[16];
  std::strftime(text, sizeof(text), "%H:%M:%S", &parts);
  return fmt::format("{}.{:03}", text, at_ms % 1000);
}

int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

Result<Look> parse_look(std::string_view text) {
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  boost::system::error_code error;
  const json::value value = json::parse(text, error, {}, options);
  const json::object* root = error ? nullptr : value.if_object();
  if (root == nullptr || !root->contains("workloadState") || !root->contains("ended"))
    return fail(Reason::kInvalidInput, "the answer has no \"workloadState\" and \"ended\"");
  Look look;
  if (const json::object* pods = root->at("workloadState").if_object())
    for (const auto& [uid, status] : *pods)
      if (status.is_object()) read_pod(status.get_object(), look);
  if (const json::array* ended = root->at("ended").if_array()) {
    for (const auto& each : *ended) {
      const json::object* one = each.if_object();
      if (one == nullptr) continue;
      EndLine end{.line = line_of(*one, *one, text_in(*one, "direction"), std::string(text_in(*one, "pod"))),
                  .worker = number_in(*one, "worker"),
                  .number = number_in(*one, "number"),
                  .at_ms = static_cast<int64_t>(number_in(*one, "atMillis")),
                  .duration_ms = static_cast<int64_t>(number_in(*one, "durationMillis")),
                  .reason = std::string(text_in(*one, "reason")),
                  .error = std::string(text_in(*one, "error"))};
      // Of one that came by a tunnel the log has the tunnel's port; people ask for the application's.
      if (end.line.direction == "inbound" && !end.line.asked.empty()) end.line.destination = end.line.asked;
      look.ended.push_back(std::move(end));
    }
  }
  return look;
}

Result<Look> look(const std::string& admin) {
  ZT_ASSIGN(const ztunnel::AdminAnswer answer, ztunnel::ask_admin(admin, "GET", "/connections"));
  if (answer.status == 404)
    return fail(
        Reason::kIo,
        fmt::format("{} has no /connections: it is istio/ztunnel, or older than this. `ztunnelctl connections` works with both",
                    admin));
  if (answer.status != 200) return fail(Reason::kIo, fmt::format("no connections from {}: HTTP status {}", admin, answer.status));
  auto found = parse_look(answer.body);
  if (!found) return fail(Reason::kIo, fmt::format("no connections from {}: {}", admin, found.error().text));
  return found;
}

NewEnds new_ends(const Look& before, const Look& after) {
  std::map<uint64_t, uint64_t> last;  // by worker
  for (const EndLine& end : before.ended) last[end.worker] = std::max(last[end.worker], end.number);
  // A proxy that was started anew counts from 1.
  std::map<uint64_t, uint64_t> newest;
  for (const EndLine& end : after.ended) newest[end.worker] = std::max(newest[end.worker], end.number);
  for (auto& [worker, number] : last)
    if (newest[worker] < number) number = 0;
  NewEnds found;
  std::map<uint64_t, uint64_t> first;
  for (const EndLine& end : after.ended) {
    if (end.number <= last[end.worker]) continue;
    const auto [place, fresh] = first.emplace(end.worker, end.number);
    if (fresh && end.number > last[end.worker] + 1) found.unseen += end.number - last[end.worker] - 1;
    found.ends.push_back(&end);
  }
  std::ranges::sort(found.ends, [](const EndLine* a, const EndLine* b) {
    return std::pair(a->at_ms, a->number) < std::pair(b->at_ms, b->number);
  });
  return found;
}

std::string tap_text(const Look& before, const Look& after, const Filter& filter, const Names& names, bool colours) {
  std::string out;
  const NewEnds ends = new_ends(before, after);
  if (ends.unseen > 0) out += fmt::format("({} ends came too fast to be seen)\n", ends.unseen);
  for (const EndLine* end : ends.ends) {
    const std::string pod = pod_of(end->line, names);
    if (!takes(filter, pod)) continue;
    const bool failed = !end->error.empty();
    out +=
        fmt::format("{}{} {:<7} {:<8} {}  {}{}", colours && failed ? "\x1b[31m" : "", clock_text(end->at_ms),
                    failed ? "FAILED" : "end", end->line.direction, printable(whom(end->line, names)),
                    printable(end->line.protocol), end->line.peer.empty() ? "" : fmt::format("  {}", printable(end->line.peer)));
    out += fmt::format("  {} sent, {} received, {}", bytes_text(end->line.sent), bytes_text(end->line.received),
                       span_text(end->duration_ms));
    out += failed                ? fmt::format("\n             {}", printable(end->error))
           : end->reason == "ok" ? ""
                                 : fmt::format("  ({})", printable(end->reason));
    out += colours && failed ? "\x1b[0m\n" : "\n";
  }
  const std::string now = clock_text(now_ms());
  for (const auto& [key, line] : after.open) {
    if (before.open.contains(key) || !takes(filter, pod_of(line, names))) continue;
    out += fmt::format("{} {:<7} {:<8} {}  {}{}\n", now, "open", line.direction, printable(whom(line, names)),
                       printable(line.protocol), line.peer.empty() ? "" : fmt::format("  {}", printable(line.peer)));
  }
  return out;
}

Listing rates(const Look& before, const Look& after, double seconds, const Filter& filter) {
  struct Sum {
    uint64_t open = 0, opened = 0, failed = 0, sent = 0, received = 0;
  };
  std::map<std::string, Sum> sums;
  for (const std::string& pod : after.pods) sums[pod];
  const auto moved = [&](const OpenLine& line, Sum& sum) {
    const auto was = before.open.find(key_of(line));
    const bool fresh = was == before.open.end() || was->second.sent > line.sent || was->second.received > line.received;
    sum.opened += fresh ? 1 : 0;
    sum.sent += line.sent - (fresh ? 0 : was->second.sent);
    sum.received += line.received - (fresh ? 0 : was->second.received);
  };
  for (const auto& [key, line] : after.open) {
    ++sums[line.pod].open;
    moved(line, sums[line.pod]);
  }
  for (const EndLine* end : new_ends(before, after).ends) {
    if (end->line.pod.empty()) continue;
    moved(end->line, sums[end->line.pod]);
    sums[end->line.pod].failed += end->error.empty() ? 0 : 1;
  }
  const auto rate = [](const json::value& value) {
    const double each = value.to_number<double>();
    return each == 0 ? std::string("-") : fmt::format("{:.1f}", each);
  };
  const auto bytes = [](const json::value& value) {
    const auto each = static_cast<uint64_t>(value.to_number<double>());
    return each == 0 ? std::string("-") : bytes_text(each) + "/s";
  };
  Listing listing{.columns = {{"POD", "pod"},
                              {"OPEN", "open", {}, true},
                              {"NEW/s", "openedPerSecond", rate, true},
                              {"FAILED/s", "failedPerSecond", rate, true},
                              {"SENT", "sentPerSecond", bytes, true},
                              {"RECEIVED", "receivedPerSecond", bytes, true}},
                  .rows = {},
                  .none = "no pod of this node is in the mesh (or none that the filter takes)"};
  for (const auto& [pod, sum] : sums) {
    if (!takes(filter, pod)) continue;
    listing.rows.push_back({{"pod", pod},
                            {"open", sum.open},
                            {"openedPerSecond", static_cast<double>(sum.opened) / seconds},
                            {"failedPerSecond", static_cast<double>(sum.failed) / seconds},
                            {"sentPerSecond", static_cast<double>(sum.sent) / seconds},
                            {"receivedPerSecond", static_cast<double>(sum.received) / seconds},
                            {"bytesPerSecond", static_cast<double>(sum.sent + sum.received) / seconds}});
  }
  return listing;
}

Listing recent(const Look& look, const Filter& filter, const Names& names, bool failed) {
  Listing listing{
      .columns = {{"ENDED", "atMillis", [](const json::value& at) { return clock_text(at.to_number<int64_t>()); }},
                  {"POD", "pod"},
                  {"DIRECTION", "direction"},
                  {"CONNECTION", "connection"},
                  {"PROTOCOL", "protocol"},
                  {"LASTED", "durationMillis", [](const json::value& span) { return span_text(span.to_number<int64_t>()); },
                   true},
                  {"SENT", "bytesSent", [](const json::value& bytes) { return bytes_text(bytes.to_number<uint64_t>()); }, true},
                  {"RECEIVED", "bytesReceived", [](const json::value& bytes) { return bytes_text(bytes.to_number<uint64_t>()); },
                   true},
                  {"REASON", "why"}},
      .rows = {},
      .none = failed ? "nothing failed lately (or nothing that the filter takes)"
                     : "nothing ended lately (or nothing that the filter takes)"};
  for (const EndLine& end : look.ended) {
    const std::string pod = pod_of(end.line, names);
    if ((failed && end.error.empty()) || !takes(filter, pod)) continue;
    listing.rows.push_back({{"atMillis", end.at_ms},
                            {"pod", pod},
                            {"direction", end.line.direction},
                            {"connection", whom(end.line, names)},
                            {"source", end.line.source},
                            {"destination", end.line.destination},
                            {"protocol", end.line.protocol},
                            {"identity", end.line.peer},
                            {"durationMillis", end.duration_ms},
                            {"bytesSent", end.line.sent},
                            {"bytesReceived", end.line.received},
                            {"reason", end.reason},
                            {"error", end.error},
                            {"why", end.error.empty() ? end.reason : end.error}});
  }
  sort_by(listing, "atMillis", true);
  return listing;
}

std::string advice(const Listing& recent) {
  struct Known {
    std::string_view part, what;
  };
  // Words of the reasons that operators know (contract §10.3).
  constexpr Known kKnown[] = {
      {"policy rejection",
       "refused by a policy of the one that was called: `ztunnelctl explain {source} {destination}` says which rule, and what it "
       "misses"},
      {"policy change", "a policy was changed, and now denies it: `ztunnelctl explain {source} {destination}` says which"},
      {"http status: 401",
       "the proxy of the one that was called refused it: `ztunnelctl recent --failed` on that node says why, `ztunnelctl explain "
       "{source} {destination}` here says which policy"},
      {"no answer to CONNECT",
       "the other node did not answer on an open tunnel: is its proxy alive, and does anything drop packets to port 15008?"},
      {"NetworkPolicy",
       "packets to port 15008 of {destination}'s node are dropped: a NetworkPolicy or a firewall has to let it through"},
      {"connection failed",
       "nobody listens at the address that was dialled: is a proxy ready on that node and the pod enrolled there (`ztunnelctl "
       "pods`), or the application's port another?"},
      {"identity error", "there was no certificate: `ztunnelctl certificates` says what the CA answered"},
      {"memory",
       "the memory that connections may hold was used up: give the proxy more (its container's limit, or ZT_MEMORY_BUDGET)"},
      {"no healthy upstream", "the service has no endpoint that is ready: `ztunnelctl services`"},
  };
  std::string out;
  for (const Known& known : kKnown) {
    const auto row =
        std::ranges::find_if(recent.rows, [&](const json::object& each) { return text_in(each, "error").contains(known.part); });
    if (row == recent.rows.end()) continue;
    // "shop/visitor:33114 → payments.pay.svc.cluster.local:80"
    const std::string_view connection = text_in(*row, "connection");
    constexpr std::string_view kArrow = " → ";
    const size_t arrow = connection.find(kArrow);
    const std::string_view from = connection.substr(0, arrow);
    std::string text(known.what);
    const auto put = [&](std::string_view mark, std::string_view value) {
      if (const size_t at = text.find(mark); at != std::string::npos) text.replace(at, mark.size(), value);
    };
    put("{source}", from.substr(0, from.rfind(':')));
    put("{destination}", arrow == std::string_view::npos ? std::string_view() : connection.substr(arrow + kArrow.size()));
    out += fmt::format("→ {}: {}\n", known.part, text);
  }
  return out;
}

}  // namespace zt::ctl
