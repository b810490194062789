#include "cni/plugin.h"

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <initializer_list>
#include <vector>

namespace zt::cni {

namespace {

namespace json = boost::json;

constexpr std::string_view kNewest = "1.1.0";
constexpr std::string_view kDefaultRunFolder = "/var/run/istio-cni";
constexpr std::string_view kAgentPods = "istio-cni-node-";  // names of the agent's own pods begin so
constexpr size_t kMaxDepth = 64;
constexpr size_t kShown = 512;  // of an agent's answer

std::string text_of(const json::string& text) { return {text.data(), text.size()}; }

std::string text_at(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? text_of(value->get_string()) : std::string();
}

Outcome failed(std::string_view version, uint32_t code, std::string_view message, std::string_view details = {}) {
  json::object error;
  error["cniVersion"] = json::string(version.data(), version.size());
  error["code"] = code;
  error["msg"] = json::string(message.data(), message.size());
  if (!details.empty()) error["details"] = json::string(details.data(), details.size());
  return {1, json::serialize(error) + "\n"};
}

// Pairs of CNI_ARGS, "A=1;B=2".
std::string argument(std::string_view args, std::string_view name) {
  while (!args.empty()) {
    const auto pair = args.substr(0, args.find(';'));
    args.remove_prefix(std::min(pair.size() + 1, args.size()));
    if (pair.size() > name.size() && pair.substr(0, name.size()) == name && pair[name.size()] == '=')
      return std::string(pair.substr(name.size() + 1));
  }
  return {};
}

bool listed(const json::object& config, std::string_view key, std::string_view name) {
  const json::value* list = config.if_contains(key);
  if (list == nullptr || !list->is_array()) return false;
  return std::ranges::any_of(list->get_array(), [&](const json::value& item) {
    return item.is_string() && std::string_view(item.get_string().data(), item.get_string().size()) == name;
  });
}

// As the agent takes it, and istio-cni's: of each address of the previous result "a.b.c.d/n" the part before the slash.
// The uid is ours alone: whoever does not know it passes it over.
std::string request(std::string_view netns, std::string_view pod, std::string_view ns, std::string_view uid,
                    const json::object* previous) {
  const auto text = [](std::string_view of) { return json::string(of.data(), of.size()); };
  json::array ips;
  const json::value* list = previous == nullptr ? nullptr : previous->if_contains("ips");
  if (list != nullptr && list->is_array()) {
    for (const auto& entry : list->get_array()) {
      const std::string address = entry.is_object() ? text_at(entry.get_object(), "address") : std::string();
      if (address.empty()) continue;
      json::object ip;
      ip["IP"] = text(std::string_view(address).substr(0, address.find('/')));
      json::object one;
      one["Address"] = std::move(ip);
      ips.push_back(std::move(one));
    }
  }
  json::object body;
  body["Netns"] = text(netns);
  body["PodName"] = text(pod);
  body["PodNamespace"] = text(ns);
  body["IPs"] = std::move(ips);
  if (!uid.empty()) body["PodUID"] = text(uid);
  return json::serialize(body);
}

struct Call {
  json::object config;
  std::string version;
  std::string run_folder;
  std::string pod, ns, uid;
  [[nodiscard]] std::string socket() const { return run_folder + "/pluginevent.sock"; }
};

Outcome versions() {
  json::object answer;
  answer["cniVersion"] = json::string(kNewest.data(), kNewest.size());
  json::array supported;
  for (const auto version : kVersions) supported.push_back(json::string(version.data(), version.size()));
  answer["supportedVersions"] = std::move(supported);
  return {0, json::serialize(answer) + "\n"};
}

Outcome add(const Call& call, const Environment& env, const AskAgent& ask) {
  const json::value* previous = call.config.if_contains("prevResult");
  if (previous == nullptr || !previous->is_object()) {
    return failed(call.version, kBadConfig, "prevResult is missing: this plugin comes after one that makes the pod's network");
  }
  Outcome pass{0, json::serialize(*previous) + "\n"};
  // Without these names it is no pod of Kubernetes. Excluded namespaces and the agent's own pod need nobody that they would wait for.
  if (call.pod.empty() || call.ns.empty()) return pass;
  if (listed(call.config, "exclude_namespaces", call.ns)) return pass;
  const std::string agent_ns = text_at(call.config, "pod_namespace");
  if (call.pod.starts_with(kAgentPods) && call.ns == (agent_ns.empty() ? "istio-system" : agent_ns)) return pass;
  const auto netns = env("CNI_NETNS");
  if (!netns || netns->empty()) return failed(call.version, kBadEnvironment, "CNI_NETNS is not set");
  const AgentAnswer answer = ask(call.socket(), request(*netns, call.pod, call.ns, call.uid, &previous->get_object()));
  if (answer.status == 200u) return pass;
  if (!answer.status) {
    return failed(call.version, kTryAgainLater,
                  "the node agent could not be contacted: pod " + call.ns + "/" + call.pod + " does not start without it",
                  call.socket() + ": " + answer.text);
  }
  return failed(call.version, kAgentRefused, "the node agent could not put pod " + call.ns + "/" + call.pod + " into the mesh",
                std::to_string(*answer.status) + " " + answer.text.substr(0, kShown));
}

}  // namespace

Outcome call(const Environment& env, std::string_view text, const AskAgent& ask) {
  const std::string command = env("CNI_COMMAND").value_or("");
  if (command == "VERSION") return versions();
  if (command != "ADD" && command != "DEL" && command != "CHECK" && command != "STATUS" && command != "GC") {
    return failed(kNewest, kBadEnvironment,
                  "CNI_COMMAND is '" + command.substr(0, 32) + "': ADD, CHECK, DEL, STATUS, GC and VERSION are known");
  }
  json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::system::error_code error;
  json::value root = json::parse({text.data(), text.size()}, error, {}, options);
  if (error || !root.is_object()) return failed(kNewest, kBadContent, "the network configuration is no JSON object");
  Call one{.config = std::move(root.get_object()), .version = {}, .run_folder = {}, .pod = {}, .ns = {}, .uid = {}};
  one.version = text_at(one.config, "cniVersion");
  if (!is_supported(one.version)) {
    return failed(kNewest, kIncompatibleVersion, "cniVersion '" + one.version.substr(0, 32) + "' is not supported");
  }
  one.run_folder = text_at(one.config, "cni_agent_run_dir");
  if (one.run_folder.empty()) one.run_folder = kDefaultRunFolder;
  const std::string args = env("CNI_ARGS").value_or("");
  one.pod = argument(args, "K8S_POD_NAME");
  one.ns = argument(args, "K8S_POD_NAMESPACE");
  one.uid = argument(args, "K8S_POD_UID");
  if (command == "ADD") return add(one, env, ask);
  // Deleting leaves with the namespace, and the agent hears of it from Kubernetes; what it holds it checks by itself, again and again.
  if (command != "STATUS") return {};
  const AgentAnswer answer = ask(one.socket(), "");
  if (answer.status) return {};  // it answers: an empty request is refused
  return failed(one.version, kNotAvailable, "the node agent could not be contacted", one.socket() + ": " + answer.text);
}

}  // namespace zt::cni
