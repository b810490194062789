#include "workload_api/xds/delta_session.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

#include "workload_api/xds/log_scope.h"

namespace zt::workload_api {
namespace {

constexpr std::string_view kWildcard = "*";
constexpr size_t kMaxLoggedBytes = 1024;  // of a NACK's text

}  // namespace

std::string nack_text(const std::vector<Rejected>& rejected) {
  std::string text;
  for (size_t i = 0; i < rejected.size(); ++i) {
    const std::string entry = fmt::format("{}{}: {}", i == 0 ? "" : "; ", rejected[i].name, rejected[i].why);
    if (text.size() + entry.size() > kMaxNackBytes)
      return text + fmt::format("{}and {} more", i == 0 ? "" : "; ", rejected.size() - i);
    text += entry;
  }
  return text;
}

std::vector<DeltaRequest> DeltaSession::start_stream() {
  std::vector<DeltaRequest> requests;
  for (const ResourceType type : {ResourceType::kAddress, ResourceType::kAuthorization}) {
    DeltaRequest& request = requests.emplace_back();
    request.type_url = type_url(type);
    request.first = true;
    // Every name that we hold: for those left out istiod would send no removal.
    request.initial_versions.assign(retained(type).begin(), retained(type).end());
    if (options_.on_demand && type == ResourceType::kAddress) {
      request.subscribe = {std::string(kWildcard)};  // both at once: subscribed to nothing
      request.unsubscribe = {std::string(kWildcard)};
    }
  }
  if (auto keys = lookups_.start_stream(); !keys.empty()) {
    DeltaRequest& request = requests.emplace_back();
    request.type_url = kAddressTypeUrl;
    request.subscribe = std::move(keys);
  }
  return requests;
}

void DeltaSession::end_stream() { lookups_.end_stream(); }

DeltaRequest DeltaSession::handle(DeltaResponse response) {
  const auto type = static_cast<size_t>(response.type);
  ++stats_.messages[type];
  stats_.message_bytes[type] += response.bytes;
  stats_.resources += response.resources;

  DeltaRequest answer;
  answer.type_url = response.type_url;
  answer.nonce = response.nonce;
  if (response.type == ResourceType::kOther) {
    ZT_LOG(xds_log, kWarn, "the control plane sent a type that we did not ask for; acknowledged, not used",
           Field::string("type", response.type_url));
    return answer;
  }

  note_names(response);
  std::vector<Rejected> rejected = std::move(response.rejected);
  for (Rejected& refused : store_.apply(std::move(response.batch))) {
    retained(response.type).erase(Str(refused.name));
    rejected.push_back(std::move(refused));
  }
  lookups_.release();

  if (rejected.empty()) {
    acked_[type] = true;
    stats_.last_ack = Clock::now();
    return answer;
  }
  ++stats_.nacks;
  stats_.rejected_resources += rejected.size();
  answer.error = nack_text(rejected);
  ZT_LOG(xds_log, kWarn, "the control plane sent malformed resources; all others are applied",
         Field::string("type", response.type_url), Field::count("rejected", static_cast<int64_t>(rejected.size())),
         Field::count("resources", static_cast<int64_t>(response.resources)),
         Field::string("error", std::string_view(*answer.error).substr(0, kMaxLoggedBytes)));
  return answer;
}

// Refused resources are not noted: reported as held, they would not be sent again once they are mended. If an
// older state of one is held, that one stays noted with its own version.
void DeltaSession::note_names(const DeltaResponse& response) {
  Versions& versions = retained(response.type);
  for (const auto& [name, version] : response.accepted) versions[name] = version;
  const auto& removed =
      response.type == ResourceType::kAddress ? response.batch.removed_addresses : response.batch.removed_policies;
  for (const std::string& name : removed)
    if (const auto found = versions.find(name); found != versions.end()) versions.erase(found);

  if (response.type != ResourceType::kAddress || lookups_.empty()) return;
  for (const auto& [name, version] : response.accepted) lookups_.answered(name);
  for (const std::string& alias : response.aliases) lookups_.answered(alias);
  for (const std::string& name : removed) lookups_.answered(name);
  for (const Rejected& refused : response.rejected) lookups_.answered(refused.name);
}

bool DeltaSession::ready() const {
  return acked_[static_cast<size_t>(ResourceType::kAuthorization)] &&
         (options_.on_demand || acked_[static_cast<size_t>(ResourceType::kAddress)]);
}

std::optional<DeltaRequest> DeltaSession::look_up(const std::string& key, const std::string& asker, Clock::time_point now,
                                                  LookupDone done) {
  if (!lookups_.look_up(key, asker, now, std::move(done))) return std::nullopt;
  DeltaRequest request;
  request.type_url = kAddressTypeUrl;
  request.subscribe = {key};
  return request;
}

void DeltaSession::add_to(XdsStats& stats) const {
  stats.messages = stats_.messages;
  stats.message_bytes = stats_.message_bytes;
  stats.resources = stats_.resources;
  stats.rejected_resources = stats_.rejected_resources;
  stats.nacks = stats_.nacks;
  stats.last_ack = stats_.last_ack;
  for (size_t type = 0; type < kResourceTypes; ++type) stats.retained[type] = retained_[type].size();
  stats.lookups = lookups_.lookups();
  stats.lookup_timeouts = lookups_.timeouts();
  stats.lookups_refused = lookups_.refused();
  stats.lookups_waiting = lookups_.waiting();
  stats.keys_subscribed = lookups_.keys();
}

}  // namespace zt::workload_api
