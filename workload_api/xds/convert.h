#pragma once
#include "base/result.h"
#include "workload_api/model/model.h"
#include "workload_api/store/interner.h"

namespace istio::workload {
class GatewayAddress;
class Service;
class Workload;
}  // namespace istio::workload
namespace istio::security {
class Authorization;
}

namespace zt::workload_api {

// Messages of the control plane to the model. What the contract's §6.8 and §6.9 demand is checked here, what
// they let pass (§5.4, §6.8) passes, and the defaults that xDS elides are filled in. Errors are kInvalidInput
// with the texts that the peer's NACKs have.
//
// Texts that many resources share are made once per converter; one converter serves one push.
class Converter {
 public:
  [[nodiscard]] Result<Ref<Workload>> workload(const istio::workload::Workload& message);
  [[nodiscard]] Result<Ref<Service>> service(const istio::workload::Service& message);
  // `name` is the resource's and becomes the policy's key.
  [[nodiscard]] Result<Ref<Authorization>> authorization(const istio::security::Authorization& message, std::string_view name);

 private:
  Str text(std::string_view value) { return interner_.make(value); }
  Str text_or(std::string_view value, std::string_view otherwise) { return interner_.make(value.empty() ? otherwise : value); }
  template <class Ports>
  PortMap ports(const Ports& messages);
  Result<GatewayAddress> gateway(const istio::workload::GatewayAddress& message);
  Result<> load_balancing(const istio::workload::Service& message, Service& service);
  template <class Messages>
  std::vector<StringMatch> string_matches(const Messages& messages);
  template <class Messages>
  std::vector<ServiceAccountMatch> account_matches(const Messages& messages);

  Interner interner_;
};

}  // namespace zt::workload_api
