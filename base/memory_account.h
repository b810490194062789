#pragma once
#include <atomic>
#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_checker.h"

// Who holds how much memory on behalf of whom, and who pays when it is too much.
//
// One MemoryLimit for the process; below it a tree of accounts for each worker (worker → pod → peer), and claims at its leaves: a
// claim is what is held for one stream, handshake or buffer. Charging is local to a worker: it draws quota from the limit in chunks,
// by one atomic operation a chunk, so no lock is taken and no worker has a part of its own that others cannot use.
//
// When the limit is reached somebody pays. Not whoever happens to ask next: from the top, the account that holds most is
// descended into (siblings have equal shares, so that one is furthest above its own), and in the last one the claim whose owner has
// not moved for the longest goes first.
namespace zt {

class MemoryAccount;

// The bytes that may be held in all. Outlives every account. Any thread.
class MemoryLimit {
 public:
  explicit MemoryLimit(size_t limit) : limit_(limit) {}
  MemoryLimit(const MemoryLimit&) = delete;

  // Takes effect at once: accounts that hold more than their share of a smaller limit are asked to give up what is above it.
  void set(size_t limit);
  [[nodiscard]] size_t limit() const { return limit_.load(std::memory_order_relaxed); }
  // Drawn by the workers: what is held, rounded up to chunks.
  [[nodiscard]] size_t drawn() const { return drawn_.load(std::memory_order_relaxed); }
  [[nodiscard]] size_t promised() const { return promised_.load(std::memory_order_relaxed); }
  // So much is held that nobody should be promised more.
  [[nodiscard]] bool tight() const { return drawn() > limit() / 2; }

  // Claims that were revoked or refused because of the limit, and their bytes.
  [[nodiscard]] uint64_t cuts() const { return cuts_.load(std::memory_order_relaxed); }
  [[nodiscard]] uint64_t cut_bytes() const { return cut_bytes_.load(std::memory_order_relaxed); }

 private:
  friend class MemoryAccount;
  friend class MemoryPromise;
  bool try_draw(size_t bytes);
  void overdraw(size_t bytes) { drawn_.fetch_add(bytes, std::memory_order_relaxed); }
  void give_back(size_t bytes) { drawn_.fetch_sub(bytes, std::memory_order_relaxed); }
  [[nodiscard]] bool exceeded() const { return drawn() > limit(); }
  [[nodiscard]] size_t chunk() const;
  // What one of the workers that hold something may hold while the others want memory.
  [[nodiscard]] size_t share() const;
  void join(MemoryAccount& root);
  void leave(MemoryAccount& root);
  void press(const MemoryAccount* except);
  // Counts; says so in the log, at most every few seconds.
  void cut(const MemoryAccount& account, size_t bytes);

  std::atomic<size_t> limit_;
  std::atomic<size_t> drawn_{0};
  std::atomic<size_t> promised_{0};
  std::atomic<size_t> holders_{0};  // roots that have drawn something
  std::atomic<uint64_t> cuts_{0}, cut_bytes_{0};
  std::atomic<int64_t> next_warning_{0};  // ns of the steady clock
  std::atomic<uint64_t> unsaid_{0};       // cuts since the last warning
  std::mutex mutex_;
  std::vector<MemoryAccount*> roots_;  // guarded by mutex_
};

namespace detail {
using AutoUnlink = boost::intrusive::link_mode<boost::intrusive::auto_unlink>;
struct ByAccount;  // tags
using AccountHook = boost::intrusive::list_base_hook<boost::intrusive::tag<ByAccount>, AutoUnlink>;
}  // namespace detail

// One account: a worker, a pod, a peer. Owned by whoever it stands for, outlives its claims and sub-accounts. One thread, the
// root's, except where a comment says otherwise.
class MemoryAccount : public detail::AccountHook {
 public:
  // What is held for one stream, handshake or buffer. Lives where the bytes live. Costs no list place while it holds nothing.
  class Claim : public detail::AccountHook {
   public:
    explicit Claim(MemoryAccount& account) : account_(account) {}
    Claim(const Claim&) = delete;
    virtual ~Claim() { release(); }
    [[nodiscard]] size_t bytes() const { return bytes_; }
    [[nodiscard]] MemoryAccount& account() const { return account_; }

   protected:
    // Others need the memory: free it before returning (destroying this claim, or update() to less). Called from another claim's
    // update(), or from relieve().
    virtual void revoke() noexcept = 0;
    void release();

   private:
    friend class MemoryAccount;
    MemoryAccount& account_;
    size_t bytes_ = 0;
  };

  // The root of a worker's accounts. `wake`: any thread; makes the worker call relieve() soon. Without it what others need is
  // given up at the next update() only.
  explicit MemoryAccount(MemoryLimit& limit, std::function<void()> wake = {});
  // A part of `parent`. `name` for people.
  MemoryAccount(MemoryAccount& parent, std::string name);
  MemoryAccount(const MemoryAccount&) = delete;
  ~MemoryAccount();

  // `claim` holds `bytes` now; `moved`: its owner has made progress since the last call. Revokes others as needed. False: it does not
  // fit, and holds what it held before; its owner is the one to pay.
  [[nodiscard]] bool update(Claim& claim, size_t bytes, bool moved);

  // Gives up what this worker holds above its share while the limit is exceeded.
  void relieve();

  [[nodiscard]] size_t used() const { return used_.load(std::memory_order_relaxed); }  // any thread
  [[nodiscard]] MemoryLimit& limit() const { return *limit_; }
  [[nodiscard]] bool tight() const { return limit_->tight(); }
  // "pod/peer"; empty for a root.
  [[nodiscard]] std::string path() const;

 private:
  friend class MemoryLimit;
  template <class T>
  using List =
      boost::intrusive::list<T, boost::intrusive::base_hook<detail::AccountHook>, boost::intrusive::constant_time_size<false>>;

  void charge(Claim& claim, size_t bytes);
  // Frees one claim other than `asking`; false if nothing else can be freed.
  bool cut_one(const Claim* asking);
  Claim* victim(const Claim* asking);
  void settle_quota();
  [[nodiscard]] MemoryAccount& root();

  [[no_unique_address]] ThreadChecker thread_;
  MemoryLimit* limit_;
  MemoryAccount* parent_ = nullptr;
  std::string name_;
  std::atomic<size_t> used_{0};   // written by the owner's thread, read by whoever reports it
  size_t direct_ = 0;             // of used_: by claims of this very account
  List<MemoryAccount> children_;  // that hold something
  List<Claim> claims_;            // that hold something; the one that moved last is at the back

  // Of a root
  std::function<void()> wake_;
  size_t quota_ = 0;  // drawn from the limit; at least used_
  std::atomic<bool> pressed_{false};
};

// What we have allowed a peer to send beyond what everybody may: it is not held yet, and may be at any time. A promise grows only
// while all promises together fit into the limit, so that peers which keep to what they were promised are not cut as long as what each may
// send at first, which is promised unasked, fits as well. Any thread.
class MemoryPromise {
 public:
  explicit MemoryPromise(MemoryLimit& limit) : limit_(&limit) {}
  MemoryPromise(const MemoryPromise&) = delete;
  ~MemoryPromise() { set(0); }

  // False: not all promises would fit; nothing has changed then.
  [[nodiscard]] bool grow_to(size_t bytes);
  // Without asking: for what has been promised by the protocol, and for less.
  void set(size_t bytes);
  [[nodiscard]] size_t bytes() const { return bytes_; }

 private:
  MemoryLimit* limit_;
  size_t bytes_ = 0;
};

}  // namespace zt
