#include "ztunnel/explain/state.h"

#include <fmt/format.h>

#include <optional>
#include <unordered_map>
#include <utility>

#include "base/yaml/reader.h"
#include "mesh/reason.h"
#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_mesh.h"
#include "workload_api/yaml/yaml_policy.h"
#include "workload_api/yaml/yaml_source.h"
#include "ztunnel/explain/going_on.h"

namespace zt::ztunnel {

using workload_api::Batch;
using workload_api::Store;
using yaml::Value;

namespace {

// The dump of a mesh of a million workloads has 60 million values; this is for a person's machine.
constexpr yaml::Limits kDumpLimits{.bytes = size_t{1} << 30, .values = 100'000'000, .held = 100'000'000};

std::optional<Value> member(const Value& map, std::string_view name) {
  std::optional<Value> found;
  if (map.is_map())
    map.each_pair([&](const Value& key, const Value& value) {
      if (key.text() == name) found = Value(value.node());
    });
  return found;
}

class DumpReader {
 public:
  explicit DumpReader(KnownState& state) : state_(state) {}

  Batch read(const Value& root) {
    Batch batch;
    if (!root.is_map()) root.refuse("this is no config_dump: map expected");
    const auto workloads = member(root, "workloads"), services = member(root, "services"), policies = member(root, "policies");
    if (!workloads || !services) root.refuse("this is no config_dump: \"workloads\" or \"services\" is missing");
    workloads->each(
        [&](const Value& item) { one(item, batch.workloads, [&] { return workload_api::read_workload(item, texts_); }); });
    workload_api::DumpedEndpoints endpoints;
    services->each([&](const Value& item) {
      const bool made = one(item, batch.services, [&] {
        endpoints.clear();
        return workload_api::read_service(item, texts_, &endpoints);
      });
      if (!made) return;
      const auto& service = *batch.services.back();
      const std::string key = fmt::format("{}/{}", service.ns.view(), service.hostname.view());
      for (auto& [uid, ports] : endpoints) ports_[uid].emplace_back(key, std::move(ports));
    });
    if (policies) {
      policies->each([&](const Value& item) { one(item, batch.policies, [&] { return workload_api::read_policy(item); }); });
    }
    // A workload's own list has the services' names only.
    for (auto& workload : batch.workloads) {
      const auto found = ports_.find(workload->uid.str());
      if (found == ports_.end()) continue;
      for (auto& [key, ports] : found->second)
        for (auto& membership : workload->services)
          if (membership.service == key) membership.ports = ports;
    }
    if (const auto config = member(root, "config")) settings(*config);
    return batch;
  }

 private:
  template <class T, class Read>
  bool one(const Value& item, std::vector<T>& into, const Read& read) {
    return read_going_on(
        item, [&] { into.push_back(read()); },
        [&](const yaml::Refusal& mistake) {
          state_.ignored.push_back(fmt::format("{}:{}: {}", mistake.mark.line, mistake.mark.column, mistake.text));
        });
  }

  void settings(const Value& config) {
    if (const auto network = member(config, "network"); network && network->is_scalar()) state_.network = network->text();
    if (const auto ports = member(config, "illegalPorts"); ports && ports->is_list()) {
      state_.illegal_ports.clear();
      ports->each([&](const Value& port) { state_.illegal_ports.push_back(port.port()); });
    }
  }

  KnownState& state_;
  workload_api::Interner texts_;
  std::unordered_map<std::string, std::vector<std::pair<std::string, workload_api::PortMap>>> ports_;  // by uid
};

}  // namespace

Result<KnownState> state_of_file(const std::string& path) {
  ZT_ASSIGN(auto content, workload_api::load_local_config(path));
  KnownState state;
  state.origin = path;
  Store store({});
  for (const auto& rejected : store.replace_local(std::move(content)))
    state.ignored.push_back(fmt::format("{}: {}", rejected.name, rejected.why));
  state.snapshot = store.snapshot();
  return state;
}

Result<KnownState> state_of_dump(std::string_view json, const std::string& name) {
  return yaml::checked(name, [&] {
    KnownState state;
    state.origin = name;
    yaml::TextSource source(json);
    yaml::Reader reader(source, kDumpLimits);
    Batch batch = DumpReader(state).read(reader.whole());
    Store store({});
    for (const auto& rejected : store.apply(std::move(batch)))
      state.ignored.push_back(fmt::format("{}: {}", rejected.name, rejected.why));
    state.snapshot = store.snapshot();
    return state;
  });
}

}  // namespace zt::ztunnel
