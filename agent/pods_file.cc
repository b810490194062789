#include "agent/pods_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <initializer_list>
#include <map>
#include <utility>

#include "base/unique_fd.h"
#include "mesh/reason.h"
#include "redirection/nftables/nftables_rules.h"

namespace zt::agent {

namespace {

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

  Result<PodsFile> document(const YAML::Node& root) {
    if (!root.IsMap()) return error(root, "expected 'pods:' and a list under it");
    ZT_ASSIGN(const Keys keys, keys_of(root, {"pods"}));
    const auto pods = keys.find("pods");
    if (pods == keys.end()) return error(root, "'pods' is missing (write 'pods: []' to have none)");
    const YAML::Node& list = pods->second;
    if (!list.IsSequence()) return error(list, "'pods' must be a list (write 'pods: []' to have none)");
    if (list.size() > kMaxFilePods) return error(list, fmt::format("more than {} pods", kMaxFilePods));
    PodsFile file;
    for (const YAML::Node& item : list) {
      if (auto spec = pod(item)) {
        file.pods.push_back(std::move(*spec));
      } else {
        file.bad.push_back({uid_of(item), std::move(spec.error().text)});
      }
    }
    return file;
  }

 private:
  using Keys = std::map<std::string, YAML::Node, std::less<>>;

  [[nodiscard]] std::string place(const YAML::Mark& mark) const {
    return mark.is_null() ? name_ : fmt::format("{}:{}:{}", name_, mark.line + 1, mark.column + 1);
  }
  [[nodiscard]] std::unexpected<Error> error(const YAML::Node& node, std::string_view text) const {
    return fail(Reason::kInvalidInput, fmt::format("{}: {}", place(node.Mark()), text));
  }

  Result<Keys> keys_of(const YAML::Node& map, std::initializer_list<std::string_view> known) const {
    Keys keys;
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) return error(entry.first, "a key must be a word");
      const std::string& key = entry.first.Scalar();
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        std::string list;
        for (const auto name : known) list += fmt::format("{}{}", list.empty() ? "" : ", ", name);
        return error(entry.first, fmt::format("unknown key '{}' (known: {})", key, list));
      }
      if (!keys.emplace(key, entry.second).second) return error(entry.first, fmt::format("'{}' is given twice", key));
    }
    return keys;
  }

  // Whose entry a bad one is, as far as it can be told.
  static std::string uid_of(const YAML::Node& node) {
    if (!node.IsMap()) return {};
    for (const auto& entry : node) {
      if (!entry.first.IsScalar() || entry.first.Scalar() != "uid") continue;
      return entry.second.IsScalar() && is_uid(entry.second.Scalar()) ? entry.second.Scalar() : std::string();
    }
    return {};
  }

  Result<PodSpec> pod(const YAML::Node& node) {
    if (!node.IsMap()) return error(node, "a pod must be a map: {uid, name, namespace, serviceAccount, netns}");
    ZT_ASSIGN(const Keys keys, keys_of(node, {"uid", "name", "namespace", "serviceAccount", "netns", "dns", "ingress",
                                              "cutEstablished", "virtualInterfaces"}));
    PodSpec spec;
    spec.options = defaults_;
    ZT_TRY(text(node, keys, "uid", spec.uid));
    if (!is_uid(spec.uid)) {
      return error(keys.at("uid"), fmt::format("uid must have 1 to {} printable characters without blanks", kMaxUidBytes));
    }
    ZT_TRY(object_name(node, keys, "name", spec.info.name));
    ZT_TRY(object_name(node, keys, "namespace", spec.info.namespace_name));
    ZT_TRY(object_name(node, keys, "serviceAccount", spec.info.service_account));
    ZT_TRY(text(node, keys, "netns", spec.netns_path));
    ZT_TRY(flag(keys, "dns", spec.options.dns));
    ZT_TRY(flag(keys, "ingress", spec.options.ingress));
    ZT_TRY(flag(keys, "cutEstablished", spec.options.cut_established));
    ZT_TRY(interfaces(keys, spec.options.virtual_interfaces));

    const YAML::Node& netns = keys.at("netns");
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
    spec.where = place(netns.Mark());
    return spec;
  }

  Result<> text(const YAML::Node& pod, const Keys& keys, std::string_view key, std::string& out) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return error(pod, fmt::format("'{}' is missing", key));
    if (!found->second.IsScalar()) return error(found->second, fmt::format("'{}' must be text", key));
    out = found->second.Scalar();
    return {};
  }

  Result<> object_name(const YAML::Node& pod, const Keys& keys, std::string_view key, std::string& out) const {
    ZT_TRY(text(pod, keys, key, out));
    if (is_object_name(out)) return {};
    return error(keys.find(key)->second,
                 fmt::format("{} '{}' must have 1 to {} of a-z, 0-9, '-' and '.', with a letter or digit at both ends", key, out,
                             kMaxNameBytes));
  }

  Result<> flag(const Keys& keys, std::string_view key, bool& out) const {
    const auto found = keys.find(key);
    if (found == keys.end()) return {};
    const bool scalar = found->second.IsScalar();
    if (!scalar || (found->second.Scalar() != "true" && found->second.Scalar() != "false")) {
      return error(found->second, fmt::format("'{}' must be true or false", key));
    }
    out = found->second.Scalar() == "true";
    return {};
  }

  Result<> interfaces(const Keys& keys, std::vector<std::string>& out) const {
    const auto found = keys.find("virtualInterfaces");
    if (found == keys.end()) return {};
    if (!found->second.IsSequence()) return error(found->second, "'virtualInterfaces' must be a list of names");
    if (found->second.size() > kMaxVirtualInterfaces) {
      return error(found->second, fmt::format("more than {} virtual interfaces", kMaxVirtualInterfaces));
    }
    for (const YAML::Node& item : found->second) {
      const std::string name = item.IsScalar() ? item.Scalar() : std::string();
      if (auto valid = redirection::valid_interface_name(name); !valid) return error(item, valid.error().text);
      out.push_back(name);
    }
    return {};
  }

  using Uses = std::map<std::string, int, std::less<>>;  // value -> line
  Result<> first_use(Uses& uses, const YAML::Node& node, std::string_view what, const std::string& value) const {
    const auto [use, first] = uses.emplace(value, node.Mark().line + 1);
    if (first) return {};
    return error(node, fmt::format("{} '{}' is used twice (first in line {})", what, value, use->second));
  }

  const std::string& name_;
  const redirection::RedirectionOptions& defaults_;
  Uses uids_;
  Uses paths_;
};

}  // namespace

Result<PodsFile> parse_pods(std::string_view text, const std::string& name, const redirection::RedirectionOptions& defaults) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.empty() || (documents.size() == 1 && documents[0].IsNull())) {
      return fail(Reason::kInvalidInput, fmt::format("{}: the file is empty (write 'pods: []' to have no pods)", name));
    }
    if (documents.size() > 1) return fail(Reason::kInvalidInput, fmt::format("{}: more than one YAML document", name));
    return Parser(name, defaults).document(documents[0]);
  } catch (const YAML::Exception& error) {
    return fail(Reason::kInvalidInput, fmt::format("{}:{}:{}: {}", name, error.mark.line + 1, error.mark.column + 1, error.msg));
  }
}

std::string render_pods(const std::vector<PodSpec>& specs) {
  YAML::Emitter out;
  out.SetStringFormat(YAML::DoubleQuoted);
  out << YAML::BeginMap << YAML::Key << "pods" << YAML::Value << YAML::BeginSeq;
  for (const auto& spec : specs) {
    const redirection::RedirectionOptions& options = spec.options;
    out << YAML::Flow << YAML::BeginMap;
    out << YAML::Key << "uid" << YAML::Value << spec.uid;
    out << YAML::Key << "name" << YAML::Value << spec.info.name;
    out << YAML::Key << "namespace" << YAML::Value << spec.info.namespace_name;
    out << YAML::Key << "serviceAccount" << YAML::Value << spec.info.service_account;
    out << YAML::Key << "netns" << YAML::Value << spec.netns_path;
    out << YAML::Key << "dns" << YAML::Value << options.dns;
    out << YAML::Key << "ingress" << YAML::Value << options.ingress;
    out << YAML::Key << "cutEstablished" << YAML::Value << options.cut_established;
    out << YAML::Key << "virtualInterfaces" << YAML::Value << options.virtual_interfaces;
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str(), out.size()) + "\n";
}

Result<std::string> read_pods_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return fail_errno(Reason::kInvalidInput, fmt::format("cannot read the pods file {}", path));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return fail(Reason::kInvalidInput, fmt::format("cannot read the pods file {}: it is not a regular file", path));
  }
  std::string text(kMaxPodsFileBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = ::read(file.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(Reason::kInvalidInput, fmt::format("cannot read the pods file {}", path));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxPodsFileBytes) {
    return fail(Reason::kInvalidInput, fmt::format("{}: longer than {} bytes", path, kMaxPodsFileBytes));
  }
  text.resize(size);
  return text;
}

Result<> write_pods_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_errno(Reason::kIo, fmt::format("cannot write {}", temporary));
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(Reason::kIo, fmt::format("cannot write {}", temporary));
    done += static_cast<size_t>(n);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) return fail_errno(Reason::kIo, fmt::format("cannot write {}", path));
  return {};
}

}  // namespace zt::agent
