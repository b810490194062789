#include "identity/istiod/istiod_ca_client.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/background_thread.h"
#include "identity/csr.h"
#include "identity/istiod/ca.pb.h"
#include "identity/log_scope.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

namespace pb = istio::v1::auth;
using Clock = std::chrono::steady_clock;

constexpr const char* kMethod = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
constexpr const char* kImpersonated = "ImpersonatedIdentity";
constexpr size_t kMaxErrorBytes = 512;  // of the CA's own words

// Messages go through gRPC as bytes: its own decoding takes an answer that it cannot decode for an empty one.
grpc::ByteBuffer encode(const pb::IstioCertificateRequest& request) {
  const grpc::Slice slice(request.SerializeAsString());
  return {&slice, 1};
}
bool decode(const grpc::ByteBuffer& buffer, pb::IstioCertificateResponse& response) {
  grpc::Slice slice;
  return buffer.DumpToSingleSlice(&slice).ok() && response.ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

}  // namespace

class IstiodCaClient::Impl {
 public:
  Impl(IstiodCaOptions options, rpc::Endpoint endpoint) : options_(std::move(options)), endpoint_(std::move(endpoint)) {}

  ~Impl() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    for (Call* call : calls_) call->context.TryCancel();
    idle_.wait(lock, [this] { return calls_.empty(); });
  }

  void fetch(const SpiffeId& id, Done done) {
    {
      const std::lock_guard lock(mutex_);
      if (calls_.size() < kMaxCaCalls) {
        auto call = std::make_unique<Call>(id, std::move(done));
        calls_.insert(call.get());
        ++stats_.calls;
        // The call is in calls_ until finish() takes it out, which is before this object goes.
        background_.post([this, owned = std::move(call)]() mutable { begin(std::move(owned)); });
        return;
      }
    }
    done(fail(Reason::kIdentityUnavailable, "too many requests to the CA are waiting"));
  }

  [[nodiscard]] IstiodCaStats stats() const {
    const std::lock_guard lock(mutex_);
    IstiodCaStats out = stats_;
    out.outstanding = calls_.size();
    return out;
  }

 private:
  struct Call {
    Call(SpiffeId identity, Done callback) : id(std::move(identity)), done(std::move(callback)) {}
    const SpiffeId id;
    const Done done;
    const Clock::time_point begun = Clock::now();
    grpc::ClientContext context;
    grpc::ByteBuffer request, answer;
    PkeyPtr key;
  };
  using CallPtr = std::unique_ptr<Call>;

  // ---- background thread

  void begin(CallPtr call) {
    if (const auto ready = prepare(*call); !ready)
      return finish(std::move(call), fail(Reason::kIdentityUnavailable, ready.error().text));
    Call& borrowed = *call;
    grpc::GenericStub(channel_).UnaryCall(&borrowed.context, kMethod, {}, &borrowed.request, &borrowed.answer,
                                          [this, owned = call.release()](const grpc::Status& status) {
                                            CallPtr ended(owned);
                                            auto result = result_of(*ended, status);
                                            finish(std::move(ended), std::move(result));
                                          });
  }

  Result<> prepare(Call& call) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return fail(Reason::kIdentityUnavailable, "shutting down");
    }
    ZT_TRY(update_channel());
    ZT_ASSIGN(const HeaderList headers, endpoint_.call_headers());
    for (const auto& [name, value] : headers) call.context.AddMetadata(name, value);
    call.context.set_deadline(std::chrono::system_clock::now() + options_.call_limit);

    ZT_ASSIGN(CertificateRequest made, make_certificate_request(call.id));
    call.key = std::move(made.key);
    pb::IstioCertificateRequest request;
    request.set_csr(std::move(made.csr_pem));
    request.set_validity_duration(options_.ttl.count());
    if (options_.impersonate)
      (*request.mutable_metadata()->mutable_fields())[kImpersonated].set_string_value(call.id.to_string());
    call.request = encode(request);
    return {};
  }

  // A channel with the roots as they are now.
  Result<> update_channel() {
    // A channel that reached nobody looks up the name again with pauses of up to two minutes: a fresh one does so at once.
    if (channel_ && unreachable_.exchange(false) && endpoint_.by_name() && channel_->GetState(false) != GRPC_CHANNEL_READY)
      channel_.reset();
    if (channel_ && endpoint_.roots_source() != Roots::Source::kFile) return {};
    auto roots = endpoint_.read_roots();
    if (!roots) {
      if (!channel_) return std::unexpected(std::move(roots).error());
      if (!std::exchange(roots_unreadable_, true))
        ZT_LOG(log_scope, kWarn, "cannot read the roots for the CA; keeping the connection that we have",
               Field::string("error", roots.error().text));
      return {};
    }
    roots_unreadable_ = false;
    if (channel_ && *roots == roots_pem_) return {};
    if (channel_)
      ZT_LOG(log_scope, kInfo, "the roots for the CA have changed; connecting anew", Field::string("ca", endpoint_.address()));
    channel_ = endpoint_.open_channel(*roots);
    roots_pem_ = std::move(*roots);
    const std::lock_guard lock(mutex_);
    ++stats_.channels;
    return {};
  }

  // ---- gRPC's threads

  Result<CertificatePtr> result_of(Call& call, const grpc::Status& status) {
    if (status.ok()) {
      pb::IstioCertificateResponse response;
      if (!decode(call.answer, response))
        return fail(Reason::kIdentityUnavailable, fmt::format("the answer of the CA {} cannot be decoded", endpoint_.address()));
      const std::vector<std::string> chain(response.cert_chain().begin(), response.cert_chain().end());
      std::optional<SpiffeId> expected;
      if (options_.impersonate) expected = call.id;
      return WorkloadCertificate::from_pem(chain, std::move(call.key), expected);
    }
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
      return fail(Reason::kIdentityTimeout,
                  fmt::format("the CA {} did not answer within {} ms", endpoint_.address(), options_.call_limit.count()));
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) unreachable_ = true;
    return fail(Reason::kIdentityUnavailable,
                fmt::format("the CA {} answered {}: {}", endpoint_.address(), rpc::status_name(status.error_code()),
                            std::string_view(status.error_message()).substr(0, kMaxErrorBytes)));
  }

  // Either thread. `done` runs before the call counts as over: no one is called after the destructor.
  void finish(CallPtr call, Result<CertificatePtr> result) {
    note(result, Clock::now() - call->begun);
    call->done(std::move(result));
    const std::lock_guard lock(mutex_);
    calls_.erase(call.get());
    call.reset();
    idle_.notify_all();
  }

  void note(const Result<CertificatePtr>& result, std::chrono::nanoseconds took) {
    const std::lock_guard lock(mutex_);
    ++(result ? stats_.answers : stats_.failures);
    if (!result && result.error().reason == Reason::kIdentityTimeout) ++stats_.timeouts;
    stats_.time_sum += took;
    stats_.longest = std::max(stats_.longest, took);
  }

  const IstiodCaOptions options_;
  const rpc::Endpoint endpoint_;

  // Background thread.
  std::shared_ptr<grpc::Channel> channel_;
  std::string roots_pem_;  // that channel_ was opened with
  bool roots_unreadable_ = false;

  std::atomic<bool> unreachable_{false};

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::unordered_set<Call*> calls_;  // guarded by mutex_
  bool stopping_ = false;            // guarded by mutex_
  IstiodCaStats stats_;              // guarded by mutex_

  BackgroundThread background_{"zt-ca"};  // last: stops first
};

Result<std::unique_ptr<IstiodCaClient>> IstiodCaClient::create(IstiodCaOptions options) {
  if (options.ttl < std::chrono::seconds::zero())
    return fail(Reason::kInvalidInput, "the lifetime of certificates must not be negative");
  options.endpoint.max_message_bytes = kMaxCaAnswerBytes;
  ZT_ASSIGN(rpc::Endpoint endpoint, rpc::Endpoint::make(options.endpoint));
  return std::unique_ptr<IstiodCaClient>(new IstiodCaClient(std::make_unique<Impl>(std::move(options), std::move(endpoint))));
}

IstiodCaClient::IstiodCaClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
IstiodCaClient::~IstiodCaClient() = default;
void IstiodCaClient::fetch(const SpiffeId& id, Done done) { impl_->fetch(id, std::move(done)); }
IstiodCaStats IstiodCaClient::stats() const { return impl_->stats(); }

}  // namespace zt::identity
