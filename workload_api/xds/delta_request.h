#pragma once
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "workload_api/model/str.h"

namespace zt::workload_api {

// One DeltaDiscoveryRequest as plain data (contract §6.7).
struct DeltaRequest {
  std::string type_url;
  bool first = false;  // carries the node: the first request of its type on a stream
  std::vector<std::string> subscribe;
  std::vector<std::string> unsubscribe;
  std::vector<std::pair<Str, Str>> initial_versions;  // name → version, of what we still hold
  std::string nonce;                                  // of the response that this one answers
  std::optional<std::string> error;                   // set: a NACK

  friend bool operator==(const DeltaRequest&, const DeltaRequest&) = default;
};

// Who we are, as every first request says it (contract §6.2). Encoded once.
class NodeDescription {
 public:
  NodeDescription() = default;
  // `json` overlays `metadata`; its values are JSON texts. An error names the key whose text is none.
  static Result<NodeDescription> make(const std::string& id, const std::map<std::string, std::string>& metadata,
                                      const std::map<std::string, std::string>& json);

 private:
  friend std::string encode_request(const DeltaRequest& request, const NodeDescription& node);
  std::string encoded_;
};

// The protobuf bytes. Texts that are not UTF-8 cannot occur: all of them came to us in protobuf strings.
[[nodiscard]] std::string encode_request(const DeltaRequest& request, const NodeDescription& node);

}  // namespace zt::workload_api
