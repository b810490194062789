#include "ctl/dump.h"

#include <fmt/format.h>

#include <ctime>

#include "base/file.h"
#include "base/json_writer.h"
#include "mesh/reason.h"
#include "ztunnel/explain/admin_client.h"

namespace zt::ctl {

namespace {

constexpr size_t kMostDumpBytes = size_t{1} << 30;

}  // namespace

const json::array& Dump::list(std::string_view name) const {
  static const json::array kNone;
  const json::value* found = root.if_contains(name);
  return found != nullptr && found->is_array() ? found->get_array() : kNone;
}

const json::object& Dump::object(std::string_view name) const {
  static const json::object kNone;
  const json::value* found = root.if_contains(name);
  return found != nullptr && found->is_object() ? found->get_object() : kNone;
}

std::string Dump::node() const { return std::string(text_in(object("config"), "localNode")); }

std::string_view text_in(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains(name);
  return found != nullptr && found->is_string() ? std::string_view(found->get_string()) : std::string_view();
}

Result<Dump> parse_dump(std::string text, std::string origin) {
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  boost::system::error_code error;
  json::value value = json::parse(text, error, {}, options);
  if (error) {
    return fail(
        Reason::kInvalidInput,
        fmt::format("{} is no config_dump: {}. A dump is made by `ztunnelctl dump`, or by curl localhost:15000/config_dump",
                    origin, error.message()));
  }
  Dump dump{.origin = std::move(origin), .text = std::move(text), .root = {}};
  if (value.is_object()) dump.root = std::move(value.get_object());
  if (dump.root.if_contains("workloads") == nullptr || dump.root.if_contains("services") == nullptr) {
    return fail(
        Reason::kInvalidInput,
        fmt::format("{} is JSON, but no config_dump of a ztunnel: it has no \"workloads\" or no \"services\". (A dump of an "
                    "Envoy has neither.)",
                    dump.origin));
  }
  return dump;
}

Result<Dump> read_dump(const Source& source) {
  if (!source.file.empty()) {
    ZT_ASSIGN(std::string text, read_file(source.file, kMostDumpBytes, "the dump"));
    return parse_dump(std::move(text), source.file);
  }
  ZT_ASSIGN(std::string text, ztunnel::fetch_config_dump(source.admin));
  return parse_dump(std::move(text), source.admin);
}

bool Filter::takes(std::string_view its_ns, std::string_view its_node, std::string_view its_pod) const {
  if (!ns.empty() && ns != its_ns) return false;
  if (!node.empty() && node != its_node) return false;
  if (pod.empty()) return true;
  const auto slash = pod.find('/');
  if (slash == std::string::npos) return pod == its_pod;
  return std::string_view(pod).substr(0, slash) == its_ns && std::string_view(pod).substr(slash + 1) == its_pod;
}

Names::Names(const Dump& dump) {
  for (const auto& each : dump.list("workloads")) {
    const json::object* workload = each.if_object();
    const json::value* addresses = workload != nullptr ? workload->if_contains("workloadIps") : nullptr;
    if (addresses == nullptr || !addresses->is_array()) continue;
    for (const auto& address : addresses->get_array()) {
      if (!address.is_string()) continue;
      names_.emplace(address.get_string(), fmt::format("{}/{}", text_in(*workload, "namespace"), text_in(*workload, "name")));
    }
  }
  for (const auto& each : dump.list("services")) {
    const json::object* service = each.if_object();
    const json::value* vips = service != nullptr ? service->if_contains("vips") : nullptr;
    if (vips == nullptr || !vips->is_array()) continue;
    for (const auto& vip : vips->get_array()) {
      if (!vip.is_string()) continue;
      const std::string_view text = vip.get_string();
      names_.emplace(text.substr(text.find('/') + 1), text_in(*service, "hostname"));
    }
  }
}

std::string_view Names::of(std::string_view address) const {
  const auto found = names_.find(address);
  return found == names_.end() ? std::string_view() : std::string_view(found->second);
}

std::optional<int64_t> parse_time(std::string_view text) {
  std::tm parts{};
  const std::string copy(text);
  const char* end = ::strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
  if (end == nullptr || (*end != 'Z' && *end != '.')) return std::nullopt;
  return ::timegm(&parts);
}

}  // namespace zt::ctl
