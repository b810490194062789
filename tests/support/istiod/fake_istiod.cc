#include "tests/support/istiod/fake_istiod.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <utility>

#include "base/grpc/callback_queue.h"
#include "base/grpc/endpoint.h"

namespace zt::test {
namespace {

constexpr std::string_view kAdsMethod = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
constexpr std::string_view kCaMethod = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
constexpr int kInvalidArgument = 3, kUnimplemented = 12, kUnauthenticated = 16;
constexpr std::chrono::hours kLongestTtl{2160};

std::string text_of(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string out;
  if (buffer.Dump(&slices).ok())
    for (const grpc::Slice& slice : slices) out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return out;
}

std::map<std::string, std::string> headers_of(const grpc::CallbackServerContext& context) {
  std::map<std::string, std::string> out;
  for (const auto& [name, value] : context.client_metadata())
    out[std::string(name.data(), name.size())] = std::string(value.data(), value.size());
  return out;
}

// One call of whatever kind: a queue of what is to be written, and an end.
class Reactor : public grpc::ServerGenericBidiReactor, public FakeAds::Stream {
 public:
  void send_repeated(std::string bytes, size_t times) override {
    const std::lock_guard lock(mutex_);
    if (ending_) return;
    out_.push_back({std::move(bytes), times});
    if (out_.size() == 1) write();
  }
  void end(const FakeStatus& status) override {
    const std::lock_guard lock(mutex_);
    if (std::exchange(ending_, true)) return;
    status_ = status;
    if (out_.empty()) finish();
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    out_.pop_front();
    if (!ok) out_.clear();
    if (!out_.empty())
      write();
    else if (ending_)
      finish();
  }
  void OnCancel() override { end({1, "cancelled"}); }

 protected:
  void read() {
    const std::lock_guard lock(mutex_);
    if (!ending_) StartRead(&in_);
  }
  [[nodiscard]] std::string taken() const { return text_of(in_); }

 private:
  void write() {
    const std::vector<grpc::Slice> slices(out_.front().times,
                                          grpc::Slice(out_.front().bytes));  // share the bytes
    buffer_ = grpc::ByteBuffer(slices.data(), slices.size());
    StartWrite(&buffer_);
  }
  void finish() { Finish(grpc::Status(static_cast<grpc::StatusCode>(status_.code), status_.message)); }

  std::mutex mutex_;
  struct Outgoing {
    std::string bytes;
    size_t times;
  };
  std::deque<Outgoing> out_;
  grpc::ByteBuffer buffer_, in_;
  bool ending_ = false;
  FakeStatus status_;
};

class AdsCall final : public Reactor {
 public:
  explicit AdsCall(FakeAds& ads) : ads_(ads) {
    if (const auto refused = ads_.open(this))
      end(*refused);
    else
      read();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return end({});
    ads_.request(this, taken());
    read();
  }
  void OnDone() override {
    ads_.close(this);
    delete this;
  }

 private:
  FakeAds& ads_;
};

class UnaryCall final : public Reactor {
 public:
  using Handle = std::function<void(UnaryCall&, const std::string&)>;
  explicit UnaryCall(Handle handle) : handle_(std::move(handle)) { read(); }
  void OnReadDone(bool ok) override {
    if (ok) handle_(*this, taken());
  }
  void OnDone() override { delete this; }

 private:
  const Handle handle_;
};

class RefusedCall final : public Reactor {
 public:
  explicit RefusedCall(const FakeStatus& status) { end(status); }
  void OnDone() override { delete this; }
};

}  // namespace

class FakeIstiod::Service final : public grpc::CallbackGenericService {
 public:
  explicit Service(FakeIstiod& owner) : owner_(owner) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const auto headers = headers_of(*context);
    if (const auto refused = owner_.admit(headers)) return new RefusedCall(*refused);
    if (context->method() == kAdsMethod) return new AdsCall(owner_.ads_);
    if (context->method() == kCaMethod)
      return new UnaryCall([this, headers](UnaryCall& call, const std::string& bytes) { certify(call, headers, bytes); });
    return new RefusedCall({kUnimplemented, "no such method"});
  }

 private:
  void certify(UnaryCall& call, const std::map<std::string, std::string>& headers, const std::string& bytes) {
    CertificateCall from{{}, headers};
    if (!from.request.ParseFromString(bytes)) return call.end({kInvalidArgument, "not an IstioCertificateRequest"});
    const CertificateAnswer answer = owner_.certificate(std::move(from));
    if (answer.never) return;
    if (answer.raw) {
      call.send(*answer.raw);
    } else if (answer.status.code == 0) {
      istio::v1::auth::IstioCertificateResponse response;
      for (const std::string& element : answer.chain) response.add_cert_chain(element);
      call.send(response.SerializeAsString());
    }
    call.end(answer.status);
  }
  FakeIstiod& owner_;
};

FakeIstiod::FakeIstiod() : FakeIstiod(Options{}) {}

FakeIstiod::FakeIstiod(Options options)
    : options_(std::move(options)),
      server_pki_(options_.server_pki != nullptr ? options_.server_pki : &pki_),
      port_(options_.port) {
  start();
}

FakeIstiod::~FakeIstiod() { stop(); }

std::string FakeIstiod::address() const { return "https://127.0.0.1:" + std::to_string(port_); }

void FakeIstiod::start() {
  rpc::adopt_grpc_log();
  rpc::keep_callback_queue();
  const ServerIdentity identity = server_pki_->server(options_.server_names);
  grpc::SslServerCredentialsOptions tls;
  tls.pem_key_cert_pairs.push_back({identity.key_pem, identity.certificate_pem});
  service_ = std::make_unique<Service>(*this);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:" + std::to_string(port_), grpc::SslServerCredentials(tls), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterCallbackGenericService(service_.get());
  server_ = builder.BuildAndStart();
  if (!server_ || port == 0) std::abort();  // the port is taken: the test cannot go on
  port_ = static_cast<uint16_t>(port);
}

void FakeIstiod::stop() {
  if (!server_) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  service_.reset();
}

// ---- who may call

void FakeIstiod::require_token(std::optional<std::string> token) {
  const std::lock_guard lock(mutex_);
  token_ = std::move(token);
}
std::string FakeIstiod::last_token() const {
  const std::string prefix = "Bearer ";
  const auto headers = last_headers();
  const auto found = headers.find("authorization");
  return found == headers.end() ? "" : found->second.substr(prefix.size());
}
std::map<std::string, std::string> FakeIstiod::last_headers() const {
  const std::lock_guard lock(mutex_);
  return last_headers_;
}
std::optional<FakeStatus> FakeIstiod::admit(const std::map<std::string, std::string>& headers) {
  const std::lock_guard lock(mutex_);
  last_headers_ = headers;
  if (!token_) return std::nullopt;
  const auto found = headers.find("authorization");
  if (found != headers.end() && found->second == "Bearer " + *token_) return std::nullopt;
  return FakeStatus{kUnauthenticated, "authentication failure"};
}

// ---- CA

std::string FakeIstiod::CertificateCall::impersonated() const {
  const auto& fields = request.metadata().fields();
  const auto found = fields.find("ImpersonatedIdentity");
  return found == fields.end() ? "" : found->second.string_value();
}

FakeIstiod::CertificateAnswer FakeIstiod::certificate(CertificateCall call) {
  Answers answer;
  {
    const std::lock_guard lock(mutex_);
    calls_.push_back(call);
    answer = answer_;
  }
  return answer ? answer(call) : sign(call);
}

FakeIstiod::CertificateAnswer FakeIstiod::sign(const CertificateCall& call) const {
  const std::string impersonated = call.impersonated();
  Roots roots;
  std::chrono::seconds most;
  {
    const std::lock_guard lock(mutex_);
    roots = roots_;
    most = most_lifetime_;
    if (!impersonated.empty() && !identities_.empty() && !identities_.contains(impersonated))
      return {{kUnauthenticated, "request impersonation authentication failure"}, {}};
  }
  std::chrono::seconds ttl(call.request.validity_duration());
  if (ttl > kLongestTtl)
    return {{kInvalidArgument, "CSR signing error (requested TTL is greater than the max allowed TTL 2160h0m0s)"}, {}};
  if (ttl == std::chrono::seconds::zero()) ttl = std::chrono::hours(24);
  ttl = std::min(ttl, most);
  const TestPki& signer = roots >= Roots::kBothNewSigns ? next_pki_ : pki_;
  const std::string leaf = signer.sign(call.request.csr(), impersonated.empty() ? own_identity : impersonated, ttl);
  if (leaf.empty()) return {{kInvalidArgument, "CSR signing error"}, {}};
  std::string bundle;
  if (roots != Roots::kNew) bundle += pki_.root_pem();
  if (roots != Roots::kOld) bundle += next_pki_.root_pem();
  return {{}, {leaf, bundle}};
}

void FakeIstiod::limit_lifetime(std::chrono::seconds most) {
  const std::lock_guard lock(mutex_);
  most_lifetime_ = most;
}
void FakeIstiod::set_roots(Roots roots) {
  const std::lock_guard lock(mutex_);
  roots_ = roots;
}

void FakeIstiod::allow_identities(std::set<std::string> identities) {
  const std::lock_guard lock(mutex_);
  identities_ = std::move(identities);
}
void FakeIstiod::answer_certificates(Answers answer) {
  const std::lock_guard lock(mutex_);
  answer_ = std::move(answer);
}
FakeIstiod::Answers FakeIstiod::answers() const {
  const std::lock_guard lock(mutex_);
  return answer_;
}
std::vector<FakeIstiod::CertificateCall> FakeIstiod::certificate_calls() const {
  const std::lock_guard lock(mutex_);
  return calls_;
}

}  // namespace zt::test
