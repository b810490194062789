#include "workload_api/xds/delta_request.h"

#include <google/protobuf/util/json_util.h>

#include "mesh/reason.h"
#include "workload_api/xds/proto/discovery.pb.h"

namespace zt::workload_api {
namespace {

namespace pb = envoy::service::discovery::v3;

// INVALID_ARGUMENT of google.rpc.Code. The peer sends 0, which istiod counts as a rejection without a cause
// (contract §14.2 #28).
constexpr int kNackCode = 3;

}  // namespace

Result<NodeDescription> NodeDescription::make(const std::string& id, const std::map<std::string, std::string>& metadata,
                                              const std::map<std::string, std::string>& json) {
  pb::Node node;
  node.set_id(id);
  auto& fields = *node.mutable_metadata()->mutable_fields();
  for (const auto& [key, value] : metadata) fields[key].set_string_value(value);
  for (const auto& [key, text] : json) {
    google::protobuf::Value& value = fields[key];
    value.Clear();
    const auto parsed = google::protobuf::util::JsonStringToMessage(text, &value);
    if (!parsed.ok() || value.kind_case() == google::protobuf::Value::KIND_NOT_SET)
      return fail(Reason::kInvalidInput, "node metadata " + key + " is not JSON: " + parsed.message().as_string());
  }
  NodeDescription description;
  if (!node.SerializeToString(&description.encoded_)) return fail(Reason::kInvalidInput, "node metadata cannot be encoded");
  return description;
}

std::string encode_request(const DeltaRequest& request, const NodeDescription& node) {
  pb::DeltaDiscoveryRequest message;
  if (request.first) message.mutable_node()->ParseFromString(node.encoded_);
  message.set_type_url(request.type_url);
  for (const std::string& name : request.subscribe) message.add_resource_names_subscribe(name);
  for (const std::string& name : request.unsubscribe) message.add_resource_names_unsubscribe(name);
  auto& versions = *message.mutable_initial_resource_versions();
  for (const auto& [name, version] : request.initial_versions) versions[name.str()] = version.str();
  message.set_response_nonce(request.nonce);
  if (request.error) {
    message.mutable_error_detail()->set_code(kNackCode);
    message.mutable_error_detail()->set_message(*request.error);
  }
  return message.SerializeAsString();
}

}  // namespace zt::workload_api
