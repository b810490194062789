#include "agent/cni_install/conf_list.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <utility>

#include "cni/plugin.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

namespace json = boost::json;

constexpr std::string_view kIstioRunFolder = "/var/run/istio-cni";  // where its agent listens unless it says so

json::string text(std::string_view of) { return json::string(of.data(), of.size()); }

bool has_type(const json::value& plugin) {
  const json::value* type = plugin.is_object() ? plugin.get_object().if_contains("type") : nullptr;
  return type != nullptr && type->is_string() && !type->get_string().empty();
}
bool is_ours(const json::value& plugin) {
  return has_type(plugin) &&
         plugin.get_object().at("type").get_string() == json::string_view(kPluginType.data(), kPluginType.size());
}

// A list, whatever it was.
Result<json::object> read(std::string_view conf) {
  json::parse_options options;
  options.max_depth = 64;
  boost::system::error_code error;
  json::value root = json::parse({conf.data(), conf.size()}, error, {}, options);
  if (error) return fail(Reason::kInvalidInput, fmt::format("not valid JSON: {}", error.message()));
  if (!root.is_object()) return fail(Reason::kInvalidInput, "no JSON object");
  json::object& object = root.get_object();
  if (const json::value* plugins = object.if_contains("plugins")) {
    if (!plugins->is_array() || plugins->get_array().empty())
      return fail(Reason::kInvalidInput, "'plugins' is no list, or an empty one");
    for (const auto& plugin : plugins->get_array()) {
      if (!has_type(plugin)) return fail(Reason::kInvalidInput, "a plugin without 'type'");
    }
    return std::move(object);
  }
  if (!has_type(root)) return fail(Reason::kInvalidInput, "neither 'plugins' nor 'type'");
  json::object list;
  const json::value* version = object.if_contains("cniVersion");
  list["cniVersion"] = version != nullptr && version->is_string() ? *version : json::value("0.3.1");
  list["name"] = "k8s-pod-network";
  list["plugins"] = json::array{std::move(object)};
  return list;
}

json::object entry_of(const PluginEntry& entry) {
  json::object ours;
  ours["name"] = text(kPluginType);
  ours["type"] = text(kPluginType);
  ours["cni_agent_run_dir"] = text(entry.run_folder);
  json::array excluded;
  for (const auto& name : entry.excluded_namespaces) excluded.push_back(json::value(text(name)));
  ours["exclude_namespaces"] = std::move(excluded);
  ours["pod_namespace"] = text(entry.pod_namespace);
  return ours;
}

// An istio-cni that asks at the socket that is ours now: we have taken its agent's place, and it would have us asked twice, or fail
// every pod for want of what its agent kept. One with a socket of its own is somebody else's.
bool is_predecessor(const json::value& plugin, const PluginEntry& entry) {
  if (!has_type(plugin) || plugin.get_object().at("type").get_string() != "istio-cni") return false;
  const json::value* folder = plugin.get_object().if_contains("cni_agent_run_dir");
  const std::string asks = folder != nullptr && folder->is_string()
                               ? std::string(folder->get_string().data(), folder->get_string().size())
                               : std::string(kIstioRunFolder);
  return asks == entry.run_folder;
}

template <class Predicate>
size_t remove_if(json::array& plugins, const Predicate& is_it) {
  size_t removed = 0;
  for (size_t i = plugins.size(); i-- > 0;) {
    if (!is_it(plugins[i])) continue;
    plugins.erase(plugins.begin() + static_cast<std::ptrdiff_t>(i));
    ++removed;
  }
  return removed;
}

}  // namespace

Result<std::optional<std::string>> with_plugin(std::string_view conf, const PluginEntry& entry) {
  ZT_ASSIGN(json::object list, read(conf));
  json::array& plugins = list["plugins"].as_array();
  const json::object ours = entry_of(entry);
  const json::value* version = list.if_contains("cniVersion");
  const bool known = version != nullptr && version->is_string() &&
                     cni::is_supported({version->get_string().data(), version->get_string().size()});
  if (!known) {
    return fail(
        Reason::kInvalidInput,
        fmt::format("cniVersion {} is none that our plugin knows ({}): with its entry no pod would start",
                    version == nullptr ? std::string("(none)") : json::serialize(*version), fmt::join(cni::kVersions, ", ")));
  }
  if (std::ranges::all_of(plugins, is_ours)) return fail(Reason::kInvalidInput, "no plugin but ours");
  const bool last = plugins.back().is_object() && plugins.back().get_object() == ours;
  const auto is_former = [&](const json::value& plugin) { return is_ours(plugin) || is_predecessor(plugin, entry); };
  if (last && std::ranges::count_if(plugins, is_former) == 1) return std::nullopt;
  remove_if(plugins, is_former);
  if (plugins.empty()) return fail(Reason::kInvalidInput, "no plugin but ours");
  plugins.push_back(ours);
  return json::serialize(list) + "\n";
}

Result<std::optional<std::string>> without_plugin(std::string_view conf) {
  ZT_ASSIGN(json::object list, read(conf));
  if (remove_if(list["plugins"].as_array(), is_ours) == 0) return std::nullopt;
  if (list["plugins"].as_array().empty()) return fail(Reason::kInvalidInput, "no plugin but ours");
  return json::serialize(list) + "\n";
}

bool is_conf(std::string_view conf) { return read(conf).has_value(); }

}  // namespace zt::agent
