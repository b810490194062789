#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "identity/istiod/ca.pb.h"
#include "tests/support/istiod/fake_ads.h"
#include "tests/support/istiod/test_pki.h"

namespace grpc {
class Server;
}

namespace zt::test {

// A control plane in this process: delta ADS and the CA on one TLS port of the loopback, behaving as the
// recorded exchanges with the real istiod show, with faults on demand. Every function may be called from the
// test's thread at any time.
class FakeIstiod {
 public:
  struct Options {
    uint16_t port = 0;                                                // 0: any
    std::vector<std::string> server_names{"localhost", "127.0.0.1"};  // in its certificate
    const TestPki* server_pki = nullptr;                              // default: pki()
  };
  FakeIstiod();
  explicit FakeIstiod(Options options);
  ~FakeIstiod();
  FakeIstiod(const FakeIstiod&) = delete;

  [[nodiscard]] const TestPki& pki() const { return pki_; }            // the mesh's root, and the server's
  [[nodiscard]] const TestPki& next_pki() const { return next_pki_; }  // another one
  [[nodiscard]] uint16_t port() const { return port_; }
  [[nodiscard]] std::string address() const;  // "https://127.0.0.1:port"

  // Stops serving, as in an outage; start() serves on the same port again, with the same state.
  void stop();
  void start();
  // From the next start() on, the server's certificate leads to this root.
  void serve_under(const TestPki& pki) { server_pki_ = &pki; }

  // ---- who may call. By default everyone.
  void require_token(std::optional<std::string> token);  // others: UNAUTHENTICATED
  [[nodiscard]] std::string last_token() const;
  [[nodiscard]] std::map<std::string, std::string> last_headers() const;  // of the last call of either kind

  // ---- delta ADS
  FakeAds& ads() { return ads_; }

  // ---- CA
  struct CertificateAnswer {
    FakeStatus status = {};
    std::vector<std::string> chain = {};
    bool never = false;                   // no answer at all
    std::optional<std::string> raw = {};  // these bytes as the answer, whatever they are
  };
  struct CertificateCall {
    istio::v1::auth::IstioCertificateRequest request;
    std::map<std::string, std::string> headers;
    [[nodiscard]] std::string impersonated() const;  // "" if none
  };
  // What istiod does (golden ca/): signs for whom the caller impersonates, or else for the caller itself.
  [[nodiscard]] CertificateAnswer sign(const CertificateCall& call) const;
  std::string own_identity = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";
  // Identities with a pod on the caller's node; impersonating another fails. Empty: all.
  void allow_identities(std::set<std::string> identities);
  // The mesh's root changes as operators do it: the new one is made known, then it signs, then the old one is
  // gone.
  enum class Roots : uint8_t { kOld, kBoth, kBothNewSigns, kNew };
  void set_roots(Roots roots);
  // Certificates live no longer than this, whatever is asked for.
  void limit_lifetime(std::chrono::seconds most);
  // Something else than sign(), for as long as it is set.
  using Answers = std::function<CertificateAnswer(const CertificateCall&)>;
  void answer_certificates(Answers answer);
  [[nodiscard]] Answers answers() const;
  [[nodiscard]] std::vector<CertificateCall> certificate_calls() const;

 private:
  class Service;
  friend class Service;
  std::optional<FakeStatus> admit(const std::map<std::string, std::string>& headers);
  CertificateAnswer certificate(CertificateCall call);

  const Options options_;
  const TestPki pki_;
  const TestPki next_pki_{"next test root"};
  const TestPki* server_pki_;  // the test's thread
  FakeAds ads_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  uint16_t port_ = 0;

  mutable std::mutex mutex_;
  std::optional<std::string> token_;
  std::map<std::string, std::string> last_headers_;
  std::set<std::string> identities_;
  Roots roots_ = Roots::kOld;
  std::chrono::seconds most_lifetime_ = std::chrono::hours(2160);
  Answers answer_;
  std::vector<CertificateCall> calls_;
};

}  // namespace zt::test
