#pragma once
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "identity/openssl_ptr.h"

// Certificates for a control plane in a test: a root, its server's certificate, and leaves for CSRs.
namespace zt::test {

struct ServerIdentity {
  std::string certificate_pem;
  std::string key_pem;
};

class TestPki {
 public:
  explicit TestPki(std::string_view name = "test root");

  [[nodiscard]] const std::string& root_pem() const { return root_pem_; }
  // A server certificate; a name that is an address becomes an IP SAN.
  [[nodiscard]] ServerIdentity server(const std::vector<std::string>& names,
                                      std::chrono::seconds lifetime = std::chrono::hours(24)) const;
  // A leaf for the key of this CSR with `uri` as its only, critical SAN, whatever the CSR asks for: so does
  // istiod. Empty if the CSR cannot be read or its signature is wrong. A negative lifetime makes one that has
  // expired.
  [[nodiscard]] std::string sign(std::string_view csr_pem, const std::string& uri, std::chrono::seconds lifetime) const;

 private:
  identity::X509Ptr start_certificate(EVP_PKEY* key, std::chrono::seconds lifetime) const;
  identity::PkeyPtr key_;
  identity::X509Ptr root_;
  std::string root_pem_;
};

}  // namespace zt::test
