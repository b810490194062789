#pragma once
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "workload_api/store/store.h"
#include "workload_api/xds/delta_response.h"
#include "workload_api/xds/delta_session.h"
#include "workload_api/xds/proto/authorization.pb.h"
#include "workload_api/xds/proto/discovery.pb.h"
#include "workload_api/xds/proto/workload.pb.h"

namespace zt::workload_api::test {

namespace discovery = envoy::service::discovery::v3;

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) FAIL("cannot read " << path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The value, or a failed test that shows the error.
template <class T>
T must(Result<T> result) {
  if (!result) FAIL("unexpected error: " << result.error().text);
  return std::move(*result);
}

inline istio::workload::Address pod(const std::string& uid, const std::string& bytes = std::string("\x0a\x00\x00\x01", 4)) {
  istio::workload::Address address;
  auto& workload = *address.mutable_workload();
  workload.set_uid(uid);
  workload.set_name(uid);
  workload.set_namespace_("shop");
  workload.add_addresses(bytes);
  return address;
}

inline istio::workload::Address service(const std::string& hostname) {
  istio::workload::Address address;
  auto& out = *address.mutable_service();
  out.set_name(hostname.substr(0, hostname.find('.')));
  out.set_namespace_("shop");
  out.set_hostname(hostname);
  return address;
}

inline istio::security::Authorization policy(const std::string& name) {
  istio::security::Authorization out;
  out.set_name(name);
  out.set_namespace_("shop");
  out.set_scope(istio::security::NAMESPACE);
  return out;
}

// Builds one response.
class Push {
 public:
  explicit Push(std::string_view url, const std::string& nonce = "n") {
    message_.set_type_url(std::string(url));
    message_.set_nonce(nonce);
  }
  Push& add(const std::string& name, const google::protobuf::Message& content, const std::string& version = "v1",
            std::vector<std::string> aliases = {}) {
    return add_bytes(name, content.SerializeAsString(), version, std::move(aliases));
  }
  Push& add_bytes(const std::string& name, const std::string& bytes, const std::string& version = "v1",
                  std::vector<std::string> aliases = {}) {
    auto& resource = *message_.add_resources();
    resource.set_name(name);
    resource.set_version(version);
    for (auto& alias : aliases) resource.add_aliases(alias);
    resource.mutable_resource()->set_type_url(message_.type_url());
    resource.mutable_resource()->set_value(bytes);
    return *this;
  }
  Push& remove(const std::string& name) {
    message_.add_removed_resources(name);
    return *this;
  }
  [[nodiscard]] std::string bytes() const { return message_.SerializeAsString(); }
  [[nodiscard]] DeltaResponse decoded() const { return must(decode_response(bytes())); }

 private:
  discovery::DeltaDiscoveryResponse message_;
};

inline Push addresses(const std::string& nonce = "n") { return Push(kAddressTypeUrl, nonce); }
inline Push policies(const std::string& nonce = "n") { return Push(kAuthorizationTypeUrl, nonce); }

}  // namespace zt::workload_api::test
