#include "base/memory_account.h"

#include <algorithm>
#include <cassert>
#include <chrono>

#include "base/log.h"

namespace zt {

namespace {
log::Scope kLog("memory");
// What a worker draws at once: large enough that the shared counter is touched seldom, small enough that 64 workers hold a quarter
// of the limit at most without using it.
constexpr size_t kMaxChunk = 256 * 1024;
constexpr size_t kChunksPerLimit = 256;
constexpr std::chrono::seconds kWarningInterval{10};
}  // namespace

void MemoryLimit::set(size_t limit) {
  limit_.store(limit, std::memory_order_relaxed);
  if (exceeded()) press(nullptr);
}

size_t MemoryLimit::chunk() const { return std::clamp<size_t>(limit() / kChunksPerLimit, 1, kMaxChunk); }

size_t MemoryLimit::share() const { return limit() / std::max<size_t>(1, holders_.load(std::memory_order_relaxed)); }

bool MemoryLimit::try_draw(size_t bytes) {
  size_t now = drawn();
  do {
    const size_t limit_now = limit();
    if (bytes > limit_now || now > limit_now - bytes) return false;
  } while (!drawn_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed));
  return true;
}

void MemoryLimit::join(MemoryAccount& root) {
  const std::lock_guard lock(mutex_);
  roots_.push_back(&root);
}

void MemoryLimit::leave(MemoryAccount& root) {
  const std::lock_guard lock(mutex_);
  std::erase(roots_, &root);
}

void MemoryLimit::press(const MemoryAccount* except) {
  const std::lock_guard lock(mutex_);
  for (MemoryAccount* root : roots_) {
    if (root != except && root->wake_ && !root->pressed_.exchange(true)) root->wake_();
  }
}

void MemoryLimit::cut(const MemoryAccount& account, size_t bytes) {
  cuts_.fetch_add(1, std::memory_order_relaxed);
  cut_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  unsaid_.fetch_add(1, std::memory_order_relaxed);
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
  int64_t next = next_warning_.load(std::memory_order_relaxed);
  if (now < next) return;
  const int64_t later = now + std::chrono::nanoseconds(kWarningInterval).count();
  if (!next_warning_.compare_exchange_strong(next, later, std::memory_order_relaxed)) return;
  ZT_LOG(kLog, kWarn, "memory budget used up: what was held for those who do not take it is given up",
         Field::string("account", account.path()), Field::count("bytes", static_cast<int64_t>(bytes)),
         Field::count("cuts", static_cast<int64_t>(unsaid_.exchange(0, std::memory_order_relaxed))),
         Field::count("limit", static_cast<int64_t>(limit())));
}

void MemoryAccount::Claim::release() {
  if (bytes_ > 0) account_.charge(*this, 0);
}

MemoryAccount::MemoryAccount(MemoryLimit& limit, std::function<void()> wake) : limit_(&limit), wake_(std::move(wake)) {
  limit_->join(*this);
}

MemoryAccount::MemoryAccount(MemoryAccount& parent, std::string name)
    : limit_(parent.limit_), parent_(&parent), name_(std::move(name)) {}

MemoryAccount::~MemoryAccount() {
  assert(used() == 0 && "an account outlives its claims");
  if (parent_ == nullptr) limit_->leave(*this);
}

MemoryAccount& MemoryAccount::root() {
  MemoryAccount* account = this;
  while (account->parent_ != nullptr) account = account->parent_;
  return *account;
}

std::string MemoryAccount::path() const {
  if (parent_ == nullptr) return {};
  std::string above = parent_->path();
  return above.empty() ? name_ : above + "/" + name_;
}

void MemoryAccount::charge(Claim& claim, size_t bytes) {
  const size_t more = bytes - claim.bytes_;  // modulo 2^64: may be less
  if (claim.bytes_ == 0 && bytes > 0) claims_.push_back(claim);
  if (bytes == 0) claim.unlink();
  claim.bytes_ = bytes;
  direct_ += more;
  for (MemoryAccount* account = this;; account = account->parent_) {
    const size_t before = account->used();
    account->used_.store(before + more, std::memory_order_relaxed);
    if (account->parent_ == nullptr) return account->settle_quota();
    if (before == 0 && more != 0) account->parent_->children_.push_back(*account);
    if (before + more == 0) account->unlink();
  }
}

// Draws what is missing if the limit allows, and gives back what is not needed any more.
void MemoryAccount::settle_quota() {
  const size_t needed = used();
  const size_t chunk = limit_->chunk();
  const size_t before = quota_;
  if (needed > quota_) {
    const size_t missing = needed - quota_;
    const size_t rounded = (missing + chunk - 1) / chunk * chunk;
    if (limit_->try_draw(rounded)) {
      quota_ += rounded;
    } else if (limit_->try_draw(missing)) {
      quota_ += missing;
    }
  } else if (needed == 0 || quota_ - needed > 2 * chunk) {
    const size_t keep = needed == 0 ? 0 : needed + chunk;
    limit_->give_back(quota_ - keep);
    quota_ = keep;
  }
  if (before == 0 && quota_ > 0) limit_->holders_.fetch_add(1, std::memory_order_relaxed);
  if (before > 0 && quota_ == 0) limit_->holders_.fetch_sub(1, std::memory_order_relaxed);
}

bool MemoryAccount::update(Claim& claim, size_t bytes, bool moved) {
  thread_.check();
  assert(&claim.account_ == this);
  const size_t before = claim.bytes_;
  if (bytes > limit_->limit() && bytes > before) {
    limit_->cut(*this, bytes);
    return false;
  }
  charge(claim, bytes);
  if (moved && claim.is_linked()) claims_.splice(claims_.end(), claims_, claims_.iterator_to(claim));
  MemoryAccount& top = root();
  while (top.used() > top.quota_) {
    const size_t missing = top.used() - top.quota_;
    // A worker below its share gets its memory though others have drawn it all, and they are asked to give up what is above theirs.
    if (top.used() <= limit_->share()) {
      if (top.quota_ == 0) limit_->holders_.fetch_add(1, std::memory_order_relaxed);
      limit_->overdraw(missing);
      top.quota_ += missing;
      limit_->press(&top);
      break;
    }
    if (!top.cut_one(&claim)) {
      if (bytes <= before) break;  // nothing new was asked for
      limit_->cut(*this, bytes);
      charge(claim, before);
      return false;
    }
    top.settle_quota();
  }
  return true;
}

void MemoryAccount::relieve() {
  assert(parent_ == nullptr);
  pressed_.store(false);
  settle_quota();
  // What is drawn but not used goes first, then what is above the share.
  if (limit_->exceeded() && quota_ > used()) {
    limit_->give_back(quota_ - used());
    quota_ = used();
    if (quota_ == 0) limit_->holders_.fetch_sub(1, std::memory_order_relaxed);
  }
  while (limit_->exceeded() && used() > limit_->share()) {
    if (!cut_one(nullptr)) return;
    if (quota_ > used()) {
      limit_->give_back(quota_ - used());
      quota_ = used();
    }
  }
}

// Where most is held, the claim that has not moved for the longest.
MemoryAccount::Claim* MemoryAccount::victim(const Claim* asking) {
  // Not found in the largest account, when the one who asks is all there is in it: it pays itself.
  MemoryAccount* largest = nullptr;
  for (MemoryAccount& child : children_) {
    if (largest == nullptr || child.used() > largest->used()) largest = &child;
  }
  if (largest != nullptr && largest->used() >= direct_) return largest->victim(asking);
  for (Claim& claim : claims_) {
    if (&claim != asking) return &claim;
  }
  return nullptr;
}

bool MemoryAccount::cut_one(const Claim* asking) {
  Claim* const found = victim(asking);
  if (found == nullptr) return false;
  MemoryAccount& account = found->account_;
  const size_t bytes = found->bytes_;
  const size_t before = used();
  limit_->cut(account, bytes);
  found->revoke();
  return used() < before;
}

bool MemoryPromise::grow_to(size_t bytes) {
  if (bytes <= bytes_) {
    set(bytes);
    return true;
  }
  const size_t more = bytes - bytes_;
  size_t now = limit_->promised();
  do {
    const size_t limit = limit_->limit();
    if (more > limit || now > limit - more) return false;
  } while (!limit_->promised_.compare_exchange_weak(now, now + more, std::memory_order_relaxed));
  bytes_ = bytes;
  return true;
}

void MemoryPromise::set(size_t bytes) {
  limit_->promised_.fetch_add(bytes - bytes_, std::memory_order_relaxed);
  bytes_ = bytes;
}

}  // namespace zt
