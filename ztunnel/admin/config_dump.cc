#include "ztunnel/admin/config_dump.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json_writer.h"
#include "identity/x509_info.h"
#include "mesh/reason.h"
#include "ztunnel/proxy/connection.h"

namespace zt::ztunnel {
namespace {

using namespace workload_api;

constexpr size_t kPieceBytes = 64 << 10;

void write_certificates(JsonWriter& json, std::string_view name, const std::vector<identity::CertificateDump>& list) {
  json.key(name);
  json.begin_array();
  for (const auto& certificate : list) {
    json.begin_object();
    json.member("expirationTime", certificate.expiration_time);
    json.member("pem", certificate.pem);
    json.member("serialNumber", certificate.serial_number);
    json.member("validFrom", certificate.valid_from);
    json.end_object();
  }
  json.end_array();
}

void write_own(JsonWriter& json, const ConnectionLine::Own& own) {
  json.key("zt");
  json.begin_object();
  json.member("ageMillis", int64_t{own.age.count()});
  json.member("bytesReceived", own.received);
  json.member("bytesSent", own.sent);
  json.member("id", own.id);
  if (own.local) json.member("local", true);
  if (!own.peer.empty()) json.member("peer", own.peer);
  json.end_object();
}

void write_connections(JsonWriter& json, std::string_view name, const std::vector<ConnectionLine>& lines) {
  json.key(name);
  json.begin_array();
  for (const auto& line : lines) {
    json.begin_object();
    json.member("actualDst", line.actual_destination.to_string());
    json.key("originalDst");
    if (line.original_destination.empty()) {
      json.null();
    } else {
      json.string(line.original_destination);
    }
    json.member("protocol", line.protocol);
    json.member("src", line.source.to_string());
    if (line.own) write_own(json, *line.own);
    json.end_object();
  }
  json.end_array();
}

// Writes one member of the dump after the other; long lists one element a step.
class Dump {
 public:
  explicit Dump(DumpInputs inputs) : inputs_(std::move(inputs)) {
    const Snapshot& snapshot = *inputs_.snapshot;
    policies_.reserve(snapshot.policy_count());
    snapshot.for_each_policy([&](const Policy& policy) { policies_.push_back(policy.spec.get()); });
    std::ranges::sort(policies_, {}, [](const Authorization* policy) { return policy->key.view(); });
    services_.reserve(snapshot.service_count());
    snapshot.for_each_service([&](const ServiceEntry& entry) { services_.push_back(&entry); });
    std::ranges::sort(services_, {}, [](const ServiceEntry* entry) {
      return std::pair(entry->service().hostname.view(), entry->service().ns.view());
    });
    workloads_.reserve(snapshot.workload_count());
    snapshot.for_each_workload([&](const Workload& workload) { workloads_.push_back(&workload); });
    std::ranges::sort(workloads_, {}, [](const Workload* workload) { return workload->uid.view(); });
  }

  bool next(std::string& out) {
    while (step_ != Step::kDone && text_.size() < kPieceBytes) step();
    out += text_;
    text_.clear();
    return step_ != Step::kDone;
  }

 private:
  enum class Step : uint8_t { kBegin, kCertificates, kConfig, kPolicies, kServices, kRest, kWorkloads, kDone };

  void step() {
    switch (step_) {
      case Step::kBegin:
        json_.begin_object();
        step_ = Step::kCertificates;
        break;
      case Step::kCertificates:
        element(
            "certificates", inputs_.certificates, [&](const auto& status) { write_certificate(json_, status); }, Step::kConfig);
        break;
      case Step::kConfig:
        json_.key("config");
        write_config_json(json_, *inputs_.config);
        step_ = Step::kPolicies;
        break;
      case Step::kPolicies:
        element("policies", policies_, [&](const Authorization* policy) { write_policy(json_, *policy); }, Step::kServices);
        break;
      case Step::kServices:
        element("services", services_, [&](const ServiceEntry* entry) { write_service(json_, *entry); }, Step::kRest);
        break;
      case Step::kRest:
        write_rest();
        step_ = Step::kWorkloads;
        break;
      case Step::kWorkloads:
        element("workloads", workloads_, [&](const Workload* workload) { write_workload(json_, *workload); }, Step::kDone);
        if (step_ == Step::kDone) json_.end_object();
        break;
      case Step::kDone: break;
    }
  }

  // The next element of a list; its brackets with the first and after the last.
  template <class List, class Write>
  void element(std::string_view name, const List& list, Write write, Step after) {
    if (index_ == 0) {
      json_.key(name);
      json_.begin_array();
    }
    if (index_ < list.size()) write(list[index_++]);
    if (index_ >= list.size()) {
      json_.end_array();
      index_ = 0;
      step_ = after;
    }
  }

  void write_rest() {
    json_.key("stagedServices");
    json_.begin_object();
    inputs_.snapshot->for_each_staged_service([&](const StagedService& staged) {
      json_.key(staged.key.view());
      write_endpoints(json_, staged.endpoints);
    });
    json_.end_object();
    // What a local file said is among the other resources: the store does not keep it apart.
    json_.key("staticConfig");
    json_.begin_object();
    for (const char* name : {"policies", "services", "workloads"}) {
      json_.key(name);
      json_.begin_array();
      json_.end_array();
    }
    json_.end_object();
    json_.key("version");
    write_version_json(json_, inputs_.version);
    if (!inputs_.workload_state) return;
    json_.key("workloadState");
    json_.begin_object();
    for (const auto& [uid, status] : *inputs_.workload_state) {
      json_.key(uid);
      write_pod_status(json_, status);
    }
    json_.end_object();
  }

  DumpInputs inputs_;
  std::vector<const Authorization*> policies_;
  std::vector<const ServiceEntry*> services_;
  std::vector<const Workload*> workloads_;
  std::string text_;
  JsonWriter json_{text_};
  Step step_ = Step::kBegin;
  size_t index_ = 0;
};

}  // namespace

void write_certificate(JsonWriter& json, const identity::IdentityStatus& status) {
  std::vector<identity::CertificateDump> chain;
  std::vector<identity::CertificateDump> roots;
  if (status.credentials.certificate != nullptr) chain = status.credentials.certificate->dump_chain();
  if (status.credentials.trust != nullptr) roots = status.credentials.trust->dump();
  json.begin_object();
  write_certificates(json, "certChain", chain);
  json.member("identity", status.identity);
  write_certificates(json, "rootCerts", roots);
  json.member("state", status.state);
  json.end_object();
}

void write_pod_status(JsonWriter& json, const PodStatus& status) {
  json.begin_object();
  if (status.connections) {
    json.key("connections");
    json.begin_object();
    write_connections(json, "inbound", status.connections->inbound);
    write_connections(json, "outbound", status.connections->outbound);
    json.end_object();
  }
  json.key("info");
  json.begin_object();
  json.member("name", status.info.name);
  json.member("namespace", status.info.ns);
  json.member("serviceAccount", status.info.service_account);
  json.end_object();
  json.member("state", status.state);
  json.end_object();
}

namespace {

void write_ended(JsonWriter& json, const EndedLine& line) {
  const EndedConnection& ended = line.ended;
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(ended.at.time_since_epoch());
  json.begin_object();
  json.member("actualDst", ended.destination.to_string());
  json.member("atMillis", int64_t{millis.count()});
  json.member("bytesReceived", ended.outbound ? ended.bytes.server_to_client : ended.bytes.client_to_server);
  json.member("bytesSent", ended.outbound ? ended.bytes.client_to_server : ended.bytes.server_to_client);
  json.member("direction", ended.outbound ? "outbound" : "inbound");
  json.member("durationMillis", int64_t{ended.duration.count()});
  if (!ended.text.empty()) json.member("error", ended.text);
  json.member("id", ended.id);
  json.member("number", ended.number);
  if (ended.asked.port != 0) json.member("originalDst", ended.asked.to_string());
  if (ended.peer) json.member("peer", ended.peer->text);
  if (ended.pod) json.member("pod", fmt::format("{}/{}", ended.pod->ns.view(), ended.pod->name.view()));
  json.member("protocol", ended.local ? "LOCAL" : ended.mutual_tls ? "HBONE" : "TCP");
  json.member("reason", reason_info(ended.reason).name);
  json.member("src", ended.source.to_string());
  json.member("worker", uint64_t{line.worker});
  json.end_object();
}

}  // namespace

HttpResponse connections_response(const ConnectionsInputs& inputs) {
  HttpResponse response;
  response.content_type = "application/json";
  JsonWriter json(response.body);
  json.begin_object();
  json.key("ended");
  json.begin_array();
  for (const auto& line : inputs.ended) write_ended(json, line);
  json.end_array();
  json.key("workloadState");
  json.begin_object();
  for (const auto& [uid, status] : inputs.pods) {
    json.key(uid);
    write_pod_status(json, status);
  }
  json.end_object();
  json.end_object();
  return response;
}

std::move_only_function<bool(std::string&)> config_dump(DumpInputs inputs) {
  return [dump = std::make_unique<Dump>(std::move(inputs))](std::string& out) { return dump->next(out); };
}

HttpResponse config_dump_response(DumpInputs inputs) {
  HttpResponse response;
  response.content_type = "application/json";
  response.more = config_dump(std::move(inputs));
  return response;
}

void answer_config_dump(BackgroundThread& thread, DumpInputs inputs, HttpRespond respond) {
  thread.post(
      [inputs = std::move(inputs), respond = std::move(respond)]() mutable { respond(config_dump_response(std::move(inputs))); });
}

}  // namespace zt::ztunnel
