#include "hbone/connect_headers.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/host_port.h"
#include "base/text.h"
#include "mesh/reason.h"

namespace zt::hbone {

namespace {

constexpr size_t kMaxShownBytes = 100;  // in error texts, of what the peer sent
constexpr std::array<std::string_view, 4> kWorkloadTypes{"deployment", "cronjob", "pod", "job"};

bool visible_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

bool lower_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Calls fn for each part of text between separators.
template <class F>
void split(std::string_view text, char separator, F&& fn) {
  for (;;) {
    const auto at = text.find(separator);
    fn(text.substr(0, at));
    if (at == std::string_view::npos) return;
    text.remove_prefix(at + 1);
  }
}

}  // namespace

std::string Baggage::render() const {
  std::string out;
  const auto add = [&out](std::string_view key, std::string_view value) {
    if (value.empty()) return;
    if (!out.empty()) out += ',';
    out.append(key).append("=").append(value);
  };
  add("k8s.cluster.name", cluster);
  add("k8s.namespace.name", namespace_);
  add("k8s." + workload_type + ".name", workload_name);
  add("service.name", service_name);
  add("service.version", service_version);
  add("cloud.region", region);
  add("cloud.availability_zone", zone);
  return out;
}

std::optional<Baggage> Baggage::parse(std::string_view text) {
  if (text.size() > kMaxHintBytes || !visible_ascii(text)) return std::nullopt;
  Baggage baggage;
  split(text, ',', [&baggage](std::string_view member) {
    const auto equals = member.find('=');
    if (equals == std::string_view::npos) return;
    const auto key = member.substr(0, equals);
    auto value = member.substr(equals + 1);
    value = value.substr(0, value.find('='));
    if (value.size() > kMaxHintedName) return;
    if (key == "k8s.cluster.name") baggage.cluster = value;
    if (key == "k8s.namespace.name") baggage.namespace_ = value;
    if (key == "service.name") baggage.service_name = value;
    if (key == "service.version") baggage.service_version = value;
    if (key == "cloud.region") baggage.region = value;
    if (key == "cloud.availability_zone") baggage.zone = value;
    for (const auto type : kWorkloadTypes) {
      if (key == "k8s." + std::string(type) + ".name") {
        baggage.workload_type = type;
        baggage.workload_name = value;
      }
    }
  });
  return baggage;
}

TraceParent TraceParent::random() {
  // Identifiers for logs, not secrets; the kernel's generator is simply at hand, 24 bytes a connection.
  static thread_local std::array<uint8_t, 24 * 64> pool;
  static thread_local size_t used = pool.size();
  if (used + 24 > pool.size()) {
    if (getrandom(pool.data(), pool.size(), 0) != static_cast<ssize_t>(pool.size())) pool.fill(0x5a);
    used = 0;
  }
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text(48, '0');
  for (size_t i = 0; i < 24; ++i) {
    text[2 * i] = kHex[pool[used + i] >> 4];
    text[2 * i + 1] = kHex[pool[used + i] & 15];
  }
  used += 24;
  return {text.substr(0, 32), text.substr(32)};
}

std::optional<TraceParent> TraceParent::parse(std::string_view value) {
  if (value.size() != 55 || value[2] != '-' || value[35] != '-' || value[52] != '-') return std::nullopt;
  const auto trace = value.substr(3, 32), span = value.substr(36, 16);
  if (!lower_hex(value.substr(0, 2)) || !lower_hex(trace) || !lower_hex(span) || !lower_hex(value.substr(53)))
    return std::nullopt;
  return TraceParent{std::string(trace), std::string(span)};
}

std::string TraceParent::render() const { return "00-" + trace_id + "-" + span_id + "-00"; }

Headers render_connect(const ConnectRequest& request) {
  Headers headers;
  headers.reserve(6);
  headers.emplace_back(":method", "CONNECT");
  headers.emplace_back(":authority", request.authority);
  if (auto baggage = request.source.render(); !baggage.empty()) headers.emplace_back("baggage", std::move(baggage));
  std::string forwarded = "for=\"" + request.client.to_string() + "\"";
  if (!request.service_host.empty()) forwarded += ";host=" + request.service_host;
  headers.emplace_back("forwarded", std::move(forwarded));
  headers.emplace_back("traceparent", request.traceparent);
  if (request.from_network) headers.emplace_back("x-forwarded-network", *request.from_network);
  return headers;
}

std::optional<std::string> parse_forwarded_host(std::string_view value) {
  if (value.size() > kMaxHintBytes || !visible_ascii(value)) return std::nullopt;
  std::optional<std::string> host;
  split(value, ';', [&host](std::string_view part) {
    part = trim(part);
    if (host || !part.starts_with("host=")) return;
    part.remove_prefix(5);
    if (part.starts_with('"')) part.remove_prefix(1);
    if (part.ends_with('"')) part.remove_suffix(1);
    host = part;
  });
  if (host && (host->empty() || host->size() > kMaxHintedName)) host.reset();
  return host;
}

Result<ReceivedConnect> parse_connect(const Headers& headers) {
  ReceivedConnect request;
  std::string baggage;
  bool has_baggage = false;
  std::optional<TraceParent> trace;
  for (const auto& [name, value] : headers) {
    if (name == ":method") request.method = value;
    if (name == ":authority") request.authority = value;
    if (name == "baggage" && baggage.size() + value.size() <= kMaxHintBytes) {
      if (has_baggage) baggage += ',';
      baggage += value;
      has_baggage = true;
    }
    if (name == "forwarded" && !request.forwarded_host) request.forwarded_host = parse_forwarded_host(value);
    if (name == "traceparent" && !trace) trace = TraceParent::parse(value);
    if (name == "x-forwarded-network" && !request.from_network && value.size() <= kMaxHintedName && visible_ascii(value))
      request.from_network = value;
  }
  if (has_baggage) request.baggage = Baggage::parse(baggage);
  request.trace = trace ? std::move(*trace) : TraceParent::random();
  if (request.method != "CONNECT") {
    return fail(Reason::kBadMethod, "expected method CONNECT, got " + request.method.substr(0, kMaxShownBytes));
  }
  const auto bad = [&request] {
    return fail(Reason::kBadAuthority, "no valid authority pseudo header: " + request.authority.substr(0, kMaxShownBytes));
  };
  if (request.authority.size() > kMaxAuthorityBytes) return bad();

  if (const auto address = SocketAddress::parse(request.authority)) {
    request.address = address;
    request.port = address->port;
    return request;
  }
  const auto parts = split_host_port(request.authority);
  if (!parts || parts->bracketed) return bad();
  // It gets into logs and into what the control plane is asked for.
  if (!visible_ascii(parts->host) || parts->host.find_first_of("/?#[]@\\ ") != std::string_view::npos) return bad();
  request.host = parts->host;
  request.port = parts->port;
  return request;
}

std::string_view status_phrase(uint16_t status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 429: return "Too Many Requests";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "<unknown status code>";
  }
}

uint16_t answer_status(const Headers& headers) {
  uint16_t status = 0;
  for (const auto& [name, value] : headers)
    if (name == ":status") std::from_chars(value.data(), value.data() + value.size(), status);
  return status;
}

Result<ReceivedAnswer> parse_answer(const Headers& headers) {
  ReceivedAnswer answer;
  answer.status = answer_status(headers);
  std::string baggage;
  for (const auto& [name, value] : headers) {
    if (name == "baggage" && baggage.size() + value.size() <= kMaxHintBytes) {
      if (!baggage.empty()) baggage += ',';
      baggage += value;
    }
  }
  if (answer.status != 200) {
    return fail(Reason::kConnectStatus,
                "http status: " + std::to_string(answer.status) + " " + std::string(status_phrase(answer.status)));
  }
  if (!baggage.empty()) answer.baggage = Baggage::parse(baggage);
  return answer;
}

Headers render_answer(uint16_t status, const Baggage* destination) {
  Headers headers{{":status", std::to_string(status)}};
  if (destination != nullptr) {
    if (auto baggage = destination->render(); !baggage.empty()) headers.emplace_back("baggage", std::move(baggage));
  }
  return headers;
}

}  // namespace zt::hbone
