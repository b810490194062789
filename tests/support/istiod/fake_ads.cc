#include "tests/support/istiod/fake_ads.h"

#include <utility>

#include "workload_api/xds/proto/workload.pb.h"
#include "workload_api/xds/resource_type.h"

namespace zt::test {
namespace {

using Response = envoy::service::discovery::v3::DeltaDiscoveryResponse;

void add(Response& response, const std::string& name, const FakeAds::Resource& resource, bool aliases) {
  auto& entry = *response.add_resources();
  entry.set_name(name);
  entry.set_version(resource.version);
  entry.mutable_resource()->set_type_url(response.type_url());
  entry.mutable_resource()->set_value(resource.bytes);
  if (!aliases) return;
  for (const std::string& alias : resource.aliases) entry.add_aliases(alias);
}

bool asked_for(const std::set<std::string>& names, const std::string& name, const FakeAds::Resource& resource) {
  if (names.contains(name)) return true;
  for (const std::string& alias : resource.aliases)
    if (names.contains(alias)) return true;
  return false;
}

}  // namespace

FakeAds::Response FakeAds::response(const std::string& type_url) {
  Response out;
  out.set_type_url(type_url);
  out.set_nonce("nonce-" + std::to_string(++nonce_));
  out.set_system_version_info("fake");
  return out;
}

// ---- what there is

void FakeAds::change(const Change& change) {
  const std::lock_guard lock(mutex_);
  auto& resources = resources_[change.type_url];
  for (const auto& [name, resource] : change.put) resources[name] = resource;
  for (const std::string& name : change.remove) resources.erase(name);
  for (auto& [stream, state] : streams_) {
    const auto found = state.types.find(change.type_url);
    if (found == state.types.end()) continue;
    const Subscription& subscription = found->second;
    Response out = response(change.type_url);
    for (const auto& [name, resource] : change.put)
      if (subscription.wildcard || resource.own_node || asked_for(subscription.names, name, resource))
        add(out, name, resource, !subscription.wildcard);
    for (const std::string& name : change.remove) out.add_removed_resources(name);
    if (out.resources_size() > 0 || out.removed_resources_size() > 0) stream->send(out.SerializeAsString());
  }
}

void FakeAds::serve_node(const std::string& node) {
  const std::lock_guard lock(mutex_);
  for (auto& [name, resource] : resources_[std::string(workload_api::kAddressTypeUrl)]) {
    istio::workload::Address address;
    resource.own_node = address.ParseFromString(resource.bytes) && address.workload().node() == node;
  }
}

void FakeAds::load(const std::string& response_bytes) {
  Response from;
  if (!from.ParseFromString(response_bytes)) return;
  const std::lock_guard lock(mutex_);
  auto& resources = resources_[from.type_url()];
  for (const auto& entry : from.resources())
    resources[entry.name()] = {
        entry.version(), entry.resource().value(), {entry.aliases().begin(), entry.aliases().end()}, false};
  for (const std::string& name : from.removed_resources()) resources.erase(name);
}

// ---- faults

void FakeAds::send_raw(const std::string& bytes, size_t times) {
  const std::lock_guard lock(mutex_);
  for (const auto& [stream, state] : streams_) stream->send_repeated(bytes, times);
}
void FakeAds::end_streams(const FakeStatus& status) {
  const std::lock_guard lock(mutex_);
  for (const auto& [stream, state] : streams_) stream->end(status);
}
void FakeAds::refuse_streams(std::optional<FakeStatus> status) {
  const std::lock_guard lock(mutex_);
  refusal_ = std::move(status);
}
void FakeAds::answer(bool on) {
  const std::lock_guard lock(mutex_);
  answering_ = on;
}

// ---- what came

std::vector<FakeAds::Received> FakeAds::received() const {
  const std::lock_guard lock(mutex_);
  return received_;
}
int FakeAds::streams() const {
  const std::lock_guard lock(mutex_);
  return stream_count_;
}
size_t FakeAds::open_streams() const {
  const std::lock_guard lock(mutex_);
  return streams_.size();
}
bool FakeAds::wait(const std::function<bool(const std::vector<Received>&)>& done, std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return done(received_); });
}

// ---- the server's side

std::optional<FakeStatus> FakeAds::open(Stream* stream) {
  const std::lock_guard lock(mutex_);
  ++stream_count_;
  changed_.notify_all();
  if (refusal_) return refusal_;
  streams_[stream].number = stream_count_;
  return std::nullopt;
}

void FakeAds::close(Stream* stream) {
  const std::lock_guard lock(mutex_);
  streams_.erase(stream);
  changed_.notify_all();
}

void FakeAds::request(Stream* stream, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  Request request;
  if (!request.ParseFromString(bytes)) return stream->end({3, "not a DeltaDiscoveryRequest"});
  received_.push_back({found->second.number, request});
  changed_.notify_all();
  if (!answering_) return;
  const bool known = found->second.types.contains(request.type_url());
  Subscription& subscription = found->second.types[request.type_url()];
  if (known)
    later(subscription, stream, request);
  else if (request.has_node())
    first(subscription, stream, request);
  else if (request.response_nonce().empty())  // else it answers what send_raw() sent
    stream->end({3, "missing node information"});
}

void FakeAds::first(Subscription& subscription, Stream* stream, const Request& request) {
  subscription.wildcard = request.resource_names_subscribe_size() == 0;
  Response out = response(request.type_url());
  const auto& reported = request.initial_resource_versions();
  const auto& resources = resources_[request.type_url()];
  for (const auto& [name, resource] : resources) {
    const auto old = reported.find(name);
    if (!subscription.wildcard && !resource.own_node && old == reported.end()) continue;
    if (old != reported.end() && old->second == resource.version && !resource.version.empty()) continue;
    add(out, name, resource, !subscription.wildcard);
  }
  for (const auto& [name, version] : reported) {
    if (!subscription.wildcard) subscription.names.insert(name);
    if (!resources.contains(name)) out.add_removed_resources(name);
  }
  stream->send(out.SerializeAsString());
}

void FakeAds::later(Subscription& subscription, Stream* stream, const Request& request) {
  Response out = response(request.type_url());
  const auto& resources = resources_[request.type_url()];
  for (const std::string& key : request.resource_names_subscribe()) {
    if (!subscription.names.insert(key).second) continue;
    bool found = false;
    for (const auto& [name, resource] : resources) {
      if (!asked_for({key}, name, resource)) continue;
      add(out, name, resource, true);
      found = true;
    }
    if (!found) out.add_removed_resources(key);
  }
  if (request.resource_names_unsubscribe_size() > 0) {
    for (const std::string& name : request.resource_names_unsubscribe()) subscription.names.erase(name);
    for (const std::string& name : subscription.names) out.add_removed_resources(name);
  }
  if (out.resources_size() > 0 || out.removed_resources_size() > 0) stream->send(out.SerializeAsString());
}

}  // namespace zt::test
