#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/grpc/endpoint.h"
#include "base/result.h"
#include "identity/ca_client.h"
#include "identity/secret_manager.h"

namespace zt::identity {

// How long one call may take, connecting included. Shorter than what the secret manager gives a fetch, so
// that the error says what the CA did not do.
inline constexpr std::chrono::milliseconds kCaCallLimit{20'000};
static_assert(kCaCallLimit < kFetchLimit);
// Calls at a time, those that wait for their turn included. The secret manager has far fewer.
inline constexpr size_t kMaxCaCalls = 1024;
// Largest answer: what a chain may hold, element by element.
inline constexpr size_t kMaxCaAnswerBytes = kMaxChainParts * kMaxChainPartBytes + kMaxTrustBundleBytes;

struct IstiodCaOptions {
  rpc::EndpointOptions endpoint;
  std::chrono::seconds ttl{86400};  // SECRET_TTL; istiod refuses more than 90 days, 0 is its default
  // Shared mode: asks on behalf of the workload, and accepts only its identity. Dedicated mode: the token
  // decides whose certificate it is, and the answer is taken as it comes (contract §7.2, §7.3).
  bool impersonate = true;
  std::chrono::milliseconds call_limit = kCaCallLimit;
};

// Counters since start and gauges of now, for telemetry.
struct IstiodCaStats {
  uint64_t calls = 0;     // begun
  uint64_t answers = 0;   // certificates that we could use
  uint64_t failures = 0;  // all others, time-outs included
  uint64_t timeouts = 0;
  uint64_t channels = 0;  // opened: 1, one more for each change of the roots, and after calls that reached nobody
  size_t outstanding = 0;
  std::chrono::nanoseconds time_sum{};  // over answers and failures
  std::chrono::nanoseconds longest{};
};

// Certificates from istiod: /istio.v1.auth.IstioCertificateService/CreateCertificate (contract §7.1 to §7.4).
//
// One long-lived channel. The root file is looked at before each call, so a rotation is noticed however the
// file is replaced; changed roots mean a fresh channel, and roots that cannot be read leave the old one in
// place. The token file is read for each call. Keys, requests and files are the background thread's, answers
// come on gRPC's threads, and so does `done`.
class IstiodCaClient final : public CaClient {
 public:
  // kInvalidInput if an option cannot be right; never fails because the CA is away or a file is not there
  // yet.
  static Result<std::unique_ptr<IstiodCaClient>> create(IstiodCaOptions options);
  ~IstiodCaClient() override;

  void fetch(const SpiffeId& id, Done done) override;
  [[nodiscard]] IstiodCaStats stats() const;  // any thread

 private:
  class Impl;
  explicit IstiodCaClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zt::identity
