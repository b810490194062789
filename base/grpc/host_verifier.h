#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace grpc::experimental {
class CertificateVerifier;
}

namespace zt::rpc {

// Does the certificate (PEM) have one of these names? DNS names match as in RFC 6125 (a wildcard stands for
// one whole label), addresses literally; the common name does not count. The error says which names it has.
[[nodiscard]] Result<> check_host(std::string_view certificate_pem, const std::vector<std::string>& names);

// The same as gRPC wants it. gRPC has verified the chain before.
[[nodiscard]] std::shared_ptr<grpc::experimental::CertificateVerifier> make_host_verifier(std::vector<std::string> names);

}  // namespace zt::rpc
