#include "identity/embedded_ca.h"

#include <utility>

#include "identity/log_scope.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

WallTime system_wall_time() { return std::chrono::time_point_cast<std::chrono::milliseconds>(std::chrono::system_clock::now()); }

}  // namespace

Result<std::unique_ptr<EmbeddedCa>> EmbeddedCa::open(EmbeddedCaOptions options) {
  if (options.ttl <= std::chrono::seconds::zero())
    return fail(Reason::kInvalidInput, "the lifetime of certificates must be positive. Set SECRET_TTL, for example to 24h");
  if (!options.wall_now) options.wall_now = system_wall_time;
  const CaDirectory directory(options.directory);
  const WallTime now = options.wall_now();
  ZT_TRY(directory.prepare(now));
  ZT_ASSIGN(const CaDirectory::Version version,
            directory.version());  // before loading: a change meanwhile is seen
  ZT_ASSIGN(std::shared_ptr<const Issuer> issuer, directory.load(now));
  if (issuer->not_after() - now < kExpiryWarning)
    ZT_LOG(log_scope, kWarn, "the embedded CA expires soon", Field::string("directory", options.directory),
           Field::bare("at", rfc3339_seconds(issuer->not_after())));
  ZT_LOG(log_scope, kInfo, "embedded CA is ready", Field::string("directory", options.directory),
         Field::string("issuer", subject_of(issuer->certificate())),
         Field::bare("expires", rfc3339_seconds(issuer->not_after())));
  return std::unique_ptr<EmbeddedCa>(new EmbeddedCa(std::move(options), std::move(issuer), version));
}

EmbeddedCa::EmbeddedCa(EmbeddedCaOptions options, std::shared_ptr<const Issuer> issuer, CaDirectory::Version version)
    : options_(std::move(options)), directory_(options_.directory), issuer_(std::move(issuer)), seen_(version), thread_([this] {
        run();
      }) {}

EmbeddedCa::~EmbeddedCa() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void EmbeddedCa::fetch(const SpiffeId& id, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.size() < kMaxQueuedRequests) {
      queue_.push_back({id, std::move(done)});
      wake_.notify_one();
      return;
    }
  }
  done(fail(Reason::kIdentityUnavailable, "the embedded CA has too many requests waiting"));
}

void EmbeddedCa::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Request request = std::move(queue_.front());
    queue_.pop_front();
    const bool stopping = stopping_;
    lock.unlock();
    if (stopping) {
      request.done(fail(Reason::kIdentityUnavailable, "the embedded CA is shutting down"));
    } else {
      reload_if_changed();
      request.done(issuer_->issue(request.id, options_.ttl, options_.wall_now()));
    }
    lock.lock();
  }
}

void EmbeddedCa::reload_if_changed() {
  const auto version = directory_.version();
  if (!version || *version == seen_) return;  // unreadable now: what we have still signs
  seen_ = *version;
  auto issuer = directory_.load(options_.wall_now());
  if (!issuer) {
    ZT_LOG(log_scope, kWarn, "the embedded CA's files changed but cannot be used; keeping the previous issuer",
           Field::string("error", issuer.error().text));
    return;
  }
  issuer_ = std::move(*issuer);
  ZT_LOG(log_scope, kInfo, "the embedded CA's files changed", Field::string("issuer", subject_of(issuer_->certificate())),
         Field::bare("expires", rfc3339_seconds(issuer_->not_after())));
}

}  // namespace zt::identity
