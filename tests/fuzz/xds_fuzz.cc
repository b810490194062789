// What the control plane can send. The first byte chooses: either the rest is taken as one message after
// another, as it comes off the network; or it is a script of well-formed updates, removals, malformed
// resources and reconnects, and after each step store and session must agree with a model of a few maps.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "workload_api/store/store.h"
#include "workload_api/xds/delta_response.h"
#include "workload_api/xds/delta_session.h"
#include "workload_api/xds/proto/discovery.pb.h"
#include "workload_api/xds/proto/workload.pb.h"

using namespace zt::workload_api;

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

class Input {
 public:
  explicit Input(std::string_view bytes) : rest_(bytes) {}
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }
  std::string_view text(size_t length) {
    const std::string_view out = rest_.substr(0, length);
    rest_.remove_prefix(out.size());
    return out;
  }

 private:
  std::string_view rest_;
};

void raw_messages(Input input) {
  Store store{{}};
  DeltaSession session(store, {.on_demand = true});
  (void)session.start_stream();
  while (!input.empty()) {
    const size_t length = static_cast<size_t>(input.byte()) << 8 | input.byte();
    const std::string_view bytes = input.text(length);
    auto whole = decode_response(bytes);
    // In two pieces it must be the same.
    const std::string_view pieces[] = {bytes.substr(0, bytes.size() / 3), bytes.substr(bytes.size() / 3)};
    const auto parts = decode_response(pieces);
    require(whole.has_value() == parts.has_value());
    if (!whole) continue;
    require(whole->accepted.size() == parts->accepted.size() && whole->rejected.size() == parts->rejected.size());
    if (whole->type != ResourceType::kOther) require(whole->accepted.size() + whole->rejected.size() == whole->resources);
    const bool clean = whole->rejected.empty();
    const bool known = whole->type != ResourceType::kOther;
    const DeltaRequest answer = session.handle(std::move(*whole));
    if (!clean && known) require(answer.error.has_value());
    (void)encode_request(answer, {});
  }
  session.end_stream();
  for (const DeltaRequest& request : session.start_stream()) (void)encode_request(request, {});
}

// Eight workloads and four services come and go.
void script(Input input) {
  Store store{{}};
  DeltaSession session(store, {});
  (void)session.start_stream();
  struct Held {
    std::string version;
    uint8_t address;
  };
  std::map<std::string, Held> model;
  while (!input.empty()) {
    envoy::service::discovery::v3::DeltaDiscoveryResponse message;
    message.set_type_url(std::string(kAddressTypeUrl));
    std::map<std::string, Held> next = model;
    std::map<std::string, bool> removed;
    bool malformed = false;
    for (int left = input.byte() % 4 + 1; left > 0; --left) {
      const uint8_t what = input.byte(), detail = input.byte();
      const bool is_service = (what & 7) < 3;
      const std::string name = is_service ? "shop/s" + std::to_string(what >> 6) : "w" + std::to_string(what >> 5);
      if ((what & 24) == 24) {
        message.add_removed_resources(name);
        removed[name] = true;
        continue;
      }
      istio::workload::Address content;
      const bool bad = detail % 8 == 7;
      if (is_service) {
        content.mutable_service()->set_namespace_("shop");
        content.mutable_service()->set_hostname(name.substr(5));
        content.mutable_service()->add_addresses()->set_address(std::string(bad ? 3 : 4, static_cast<char>(detail)));
      } else {
        auto& workload = *content.mutable_workload();
        workload.set_uid(name);
        workload.add_addresses(std::string(bad ? 5 : 4, static_cast<char>(detail)));
        if (detail & 1) (*workload.mutable_services())["shop/s" + std::to_string(detail >> 6)];
        if (detail & 2) workload.set_status(istio::workload::UNHEALTHY);
      }
      auto& resource = *message.add_resources();
      resource.set_name(name);
      resource.set_version(std::to_string(detail));
      resource.mutable_resource()->set_value(content.SerializeAsString());
      malformed |= bad;
      if (!bad) next[name] = {std::to_string(detail), detail};
    }
    for (const auto& [name, gone] : removed) next.erase(name);
    model = std::move(next);

    auto response = decode_response(message.SerializeAsString());
    require(response.has_value());
    require(session.handle(std::move(*response)).error.has_value() == malformed);

    const SnapshotPtr snapshot = store.snapshot();
    size_t workloads = 0, services = 0;
    for (const auto& [name, held] : model) {
      if (name.starts_with("shop/")) {
        ++services;
        require(snapshot->service(name) != nullptr);
      } else {
        ++workloads;
        const Workload* workload = snapshot->workload(name);
        require(workload != nullptr && workload->addresses.at(0).bytes()[0] == held.address);
      }
    }
    require(snapshot->workload_count() == workloads && snapshot->service_count() == services);

    if (input.byte() % 4 == 0) {
      session.end_stream();
      const auto requests = session.start_stream();
      require(requests[0].initial_versions.size() == model.size());
      for (const auto& [name, version] : requests[0].initial_versions) {
        const auto found = model.find(name.str());
        require(found != model.end() && found->second.version == version.view());
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(std::string_view(reinterpret_cast<const char*>(data), size));
  if (input.byte() % 2 == 0)
    raw_messages(input);
  else
    script(input);
  return 0;
}
