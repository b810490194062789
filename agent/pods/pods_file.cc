#include "agent/pods/pods_file.h"

#include <fmt/core.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <utility>

#include "base/file.h"
#include "base/json_writer.h"
#include "base/yaml/reader.h"
#include "mesh/reason.h"
#include "redirection/redirector.h"

namespace zt::agent {

namespace {

using yaml::Value;

// Kubernetes' longest object name (a DNS subdomain).
constexpr size_t kMaxNameBytes = 253;
constexpr size_t kMaxUidBytes = 253;
constexpr size_t kMaxPathBytes = 4095;
constexpr size_t kMaxVirtualInterfaces = 16;

// A DNS-1123 subdomain, as Kubernetes demands of names: they become part of SPIFFE ids.
bool is_object_name(std::string_view name) {
  const auto alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= kMaxNameBytes && alphanumeric(name.front()) && alphanumeric(name.back()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return alphanumeric(c) || c == '-' || c == '.'; });
}

bool is_uid(std::string_view uid) {
  return !uid.empty() && uid.size() <= kMaxUidBytes &&
         std::all_of(uid.begin(), uid.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

class Parser {
 public:
  Parser(const std::string& name, const redirection::RedirectionOptions& defaults) : name_(name), defaults_(defaults) {}

  Result<PodsFile> document(const Value& root) {
    if (!root.is_map()) return error(root, "expected 'pods:' and a list under it");
    ZT_ASSIGN(const Keys keys, keys_of(root, {"pods"}));
    const auto pods = keys.find("pods");
    if (pods == keys.end()) return error(root, "'pods' is missing (write 'pods: []' to have none)");
    const Value& list = pods->second;
    if (!list.is_list()) return error(list, "'pods' must be a list (write 'pods: []' to have none)");
    if (list.size() > kMaxFilePods) return error(list, fmt::format("more than {} pods", kMaxFilePods));
    PodsFile file;
    list.each([&](const Value& item) {
      if (auto spec = pod(item)) {
        file.pods.push_back(std::move(*spec));
      } else {
        file.bad.push_back({uid_of(item), std::move(spec.error().text)});
      }
    });
    return file;
  }

 private:
  using Keys = std::map<std::string_view, Value>;

  [[nodiscard]] std::string place(const Value& value) const {
    return fmt::format("{}:{}:{}", name_, value.mark().line, value.mark().column);
  }
  [[nodiscard]] std::unexpected<Error> error(const Value& value, std::string_view text) const {
    return fail(Reason::kInvalidInput, fmt::format("{}: {}", place(value), text));
  }

  // Pair by pair, since a mistake in one entry must be said as that entry's.
  Result<Keys> keys_of(const Value& map, std::initializer_list<std::string_view> known) const {
    Keys keys;
    for (const yaml::Node* node = map.node().first; node != nullptr; node = node->next->next) {
      const Value name(*node);
      if (!name.is_scalar()) return error(name, "a key must be a word");
      const std::string_view key = name.text();
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        std::string list;
        for (const auto word : known) list += fmt::format("{}{}", list.empty() ? "" : ", ", word);
        return error(name, fmt::format("unknown key '{}' (known: {})", key, list));
      }
      if (!keys.emplace(key, Value(*node->next)).second) return error(name, fmt::format("'{}' is given twice", key));
    }
    return keys;
  }

  // Whose entry a bad one is, as far as it can be told.
  static std::string uid_of(const Value& pod) {
    if (!pod.is_map()) return {};
    for (const yaml::Node* key = pod.node().first; key != nullptr; key = key->next->next) {
      if (key->kind != yaml::Node::Kind::kScalar || key->text != "uid") continue;
      const Value uid(*key->next);
      return uid.is_scalar() && is_uid(uid.text()) ? std::string(uid.text()) : std::string();
    }
    return {};
  }

  Result<PodSpec> pod(const Value& node) {
    if (!node.is_map()) return error(node, "a pod must be a map: {uid, name, namespace, serviceAccount, netns}");
    ZT_ASSIGN(const Keys keys, keys_of(node, {"uid", "name", "namespace", "serviceAccount", "netns", "dns", "ingress",
                                              "cutEstablished", "virtualInterfaces", "excludeInboundPorts",
                                              "excludeInboundRanges", "excludeOutboundPorts", "excludeOutboundRanges"}));
    PodSpec spec;
    spec.options = defaults_;
    ZT_TRY(text(node, keys, "uid", spec.uid));
    if (!is_uid(spec.uid)) {
      return error(keys.at("uid"), fmt::format("uid must have 1 to {} printable characters without blanks", kMaxUidBytes));
    }
    ZT_TRY(object_name(node, keys, "name", spec.info.name));
    ZT_TRY(object_name(node, keys, "namespace", spec.info.ns));
    ZT_TRY(object_name(node, keys, "serviceAccount", spec.info.service_account));
    ZT_TRY(text(node, keys, "netns", spec.netns_path));
    ZT_TRY(flag(keys, "dns", spec.options.dns));
    ZT_TRY(flag(keys, "ingress", spec.options.ingress));
    ZT_TRY(flag(keys, "cutEstablished", spec.options.cut_established));
    ZT_TRY(interfaces(keys, spec.options.virtual_interfaces));
    ZT_TRY(words(keys, "excludeInboundPorts", redirection::parse_port_range, spec.options.inbound.ports));
    ZT_TRY(words(keys, "excludeInboundRanges", redirection::parse_range, spec.options.inbound.ranges));
    ZT_TRY(words(keys, "excludeOutboundPorts", redirection::parse_port_range, spec.options.outbound.ports));
    ZT_TRY(words(keys, "excludeOutboundRanges", redirection::parse_range, spec.options.outbound.ranges));

    const Value& netns = keys.at("netns");
    if (!spec.netns_path.starts_with('/') || spec.netns_path.size() > kMaxPathBytes ||
        spec.netns_path.find('\0') != std::string::npos) {
      return error(netns,
                   fmt::format("netns '{}' must be an absolute path, such as /run/netns/{}", spec.netns_path, spec.info.name));
    }
    if (const size_t size = encode(zds::AddWorkload{spec.uid, spec.info}).size(); size > zds::kMaxZdsMessage) {
      return error(node, fmt::format("uid, name, namespace and serviceAccount together take {} bytes, the limit is {}", size,
                                     zds::kMaxZdsMessage));
    }
    ZT_TRY(first_use(uids_, keys.at("uid"), "uid", spec.uid));
    ZT_TRY(first_use(paths_, netns, "netns", spec.netns_path));
    spec.where = place(netns);
    return spec;
  }

  Result<> text(const Value& pod, const Keys& keys, std::string_view key, std::string& out) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return error(pod, fmt::format("'{}' is missing", key));
    if (!found->second.is_scalar()) return error(found->second, fmt::format("'{}' must be text", key));
    out = found->second.text();
    return {};
  }

  Result<> object_name(const Value& pod, const Keys& keys, std::string_view key, std::string& out) const {
    ZT_TRY(text(pod, keys, key, out));
    if (is_object_name(out)) return {};
    return error(keys.find(key)->second,
                 fmt::format("{} '{}' must have 1 to {} of a-z, 0-9, '-' and '.', with a letter or digit at both ends", key, out,
                             kMaxNameBytes));
  }

  Result<> flag(const Keys& keys, std::string_view key, bool& out) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return {};
    const std::string_view word = found->second.is_scalar() ? found->second.text() : std::string_view();
    if (word != "true" && word != "false") return error(found->second, fmt::format("'{}' must be true or false", key));
    out = word == "true";
    return {};
  }

  Result<> interfaces(const Keys& keys, std::vector<std::string>& out) const {
    const auto found = keys.find("virtualInterfaces");
    if (found == keys.end()) return {};
    if (!found->second.is_list()) return error(found->second, "'virtualInterfaces' must be a list of names");
    if (found->second.size() > kMaxVirtualInterfaces) {
      return error(found->second, fmt::format("more than {} virtual interfaces", kMaxVirtualInterfaces));
    }
    Result<> outcome;
    found->second.each([&](const Value& item) {
      const std::string name(item.is_scalar() ? item.text() : std::string_view());
      if (auto valid = redirection::valid_interface_name(name); !valid && outcome) outcome = error(item, valid.error().text);
      out.push_back(name);
    });
    return outcome;
  }

  template <class Parse, class Out>
  Result<> words(const Keys& keys, std::string_view key, Parse parse, Out& out) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return {};
    if (!found->second.is_list() || found->second.size() > redirection::Exclusions::kMost) {
      return error(found->second, fmt::format("'{}' must be a list of at most {}", key, redirection::Exclusions::kMost));
    }
    Result<> outcome;
    found->second.each([&](const Value& item) {
      auto parsed = parse(item.is_scalar() ? item.text() : std::string_view());
      if (parsed) out.push_back(*parsed);
      if (!parsed && outcome) outcome = error(item, parsed.error().text);
    });
    return outcome;
  }

  using Uses = std::map<std::string, uint32_t, std::less<>>;  // value -> line
  Result<> first_use(Uses& uses, const Value& node, std::string_view what, const std::string& value) const {
    const auto [use, first] = uses.emplace(value, node.mark().line);
    if (first) return {};
    return error(node, fmt::format("{} '{}' is used twice (first in line {})", what, value, use->second));
  }

  const std::string& name_;
  const redirection::RedirectionOptions& defaults_;
  Uses uids_;
  Uses paths_;
};

void ports(JsonWriter& json, std::string_view key, const redirection::Exclusions& exclusions) {
  json.key(key);
  json.begin_array();
  for (const auto& range : exclusions.ports) json.string(fmt::format("{}-{}", range.first, range.last));
  json.end_array();
}

void ranges(JsonWriter& json, std::string_view key, const redirection::Exclusions& exclusions) {
  json.key(key);
  json.begin_array();
  for (const auto& range : exclusions.ranges) json.string(range.to_string());
  json.end_array();
}

}  // namespace

Result<PodsFile> parse_pods(std::string_view text, const std::string& name, const redirection::RedirectionOptions& defaults) {
  return yaml::checked(name, [&]() -> Result<PodsFile> {
    yaml::TextSource source(text);
    yaml::Reader reader(source, {.bytes = kMaxPodsFileBytes});
    const Value root = reader.whole();
    if (root.is_null()) {
      return fail(Reason::kInvalidInput, fmt::format("{}: the file is empty (write 'pods: []' to have no pods)", name));
    }
    return Parser(name, defaults).document(root);
  });
}

std::string render_pods(const std::vector<PodSpec>& specs) {
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("pods");
  json.begin_array();
  for (const auto& spec : specs) {
    const redirection::RedirectionOptions& options = spec.options;
    json.begin_object();
    json.member("uid", spec.uid);
    json.member("name", spec.info.name);
    json.member("namespace", spec.info.ns);
    json.member("serviceAccount", spec.info.service_account);
    json.member("netns", spec.netns_path);
    json.member("dns", options.dns);
    json.member("ingress", options.ingress);
    json.member("cutEstablished", options.cut_established);
    json.key("virtualInterfaces");
    json.begin_array();
    for (const std::string& name : options.virtual_interfaces) json.string(name);
    json.end_array();
    ports(json, "excludeInboundPorts", options.inbound);
    ranges(json, "excludeInboundRanges", options.inbound);
    ports(json, "excludeOutboundPorts", options.outbound);
    ranges(json, "excludeOutboundRanges", options.outbound);
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return out + "\n";
}

Result<std::string> read_pods_file(const std::string& path) { return read_file(path, kMaxPodsFileBytes, "the pods file"); }

}  // namespace zt::agent
