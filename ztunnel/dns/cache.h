#pragma once
#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "base/address.h"
#include "base/event_loop.h"
#include "base/memory_account.h"
#include "ztunnel/dns/message.h"

// Answers of upstreams, kept for as long as they say. One thread.
//
// The memory is one account a worker, and each pod's part is charged to that pod; what is in it is a pod's own. A pod may forge packets in its own namespace (Docker and
// Kubernetes let containers have CAP_NET_RAW), the answers to our queries among them: what one pod was told is never told to
// another.
namespace zt::ztunnel::dns {

class PodCache;

// What the caches of a worker may hold together. When it is full, the pod that holds the most loses its oldest.
class CacheAccount {
 public:
  explicit CacheAccount(size_t limit) : limit_(limit) {}
  CacheAccount(const CacheAccount&) = delete;
  [[nodiscard]] size_t used() const { return used_; }

 private:
  friend class PodCache;
  void make_room(size_t bytes);

  const size_t limit_;
  size_t used_ = 0;
  std::unordered_set<PodCache*> pods_;
};

// Names an exchange with an upstream: two queries with equal keys have the same answer, but for id and the question's letters.
// Everything else in them counts: flags, EDNS options, cookies.
[[nodiscard]] std::string exchange_key(const SocketAddress& upstream, const Query& query);

// `response`, an answer to a query with an equal key, made one to `query`: its id, its letters. What glibc cannot read is left alone
// but for the id.
void adapt(Bytes& response, const Query& query);

class PodCache final : private MemoryAccount::Claim {
 public:
  // `memory`: the pod's. When others need it, the older half goes.
  PodCache(CacheAccount& account, MemoryAccount& memory);
  ~PodCache() override;
  PodCache(const PodCache&) = delete;

  // The answer to `query` with what is left of its TTLs; false if there is none.
  bool find(const std::string& key, const Query& query, Clock::time_point now, Bytes& out);
  // Keeps `response` if it may be kept.
  void put(const std::string& key, View response, Clock::time_point now);

  [[nodiscard]] size_t bytes() const { return bytes_; }
  [[nodiscard]] size_t size() const { return entries_.size(); }

 private:
  friend class CacheAccount;
  struct Entry {
    std::string key;
    Bytes response;
    Lifetime life;
    Clock::time_point since;
    [[nodiscard]] size_t bytes() const;
  };
  using Entries = std::list<Entry>;
  void remove(Entries::iterator entry);
  void revoke() noexcept override;

  CacheAccount& worker_;
  Entries entries_;  // the one used last in front
  std::unordered_map<std::string_view, Entries::iterator> by_key_;
  size_t bytes_ = 0;
};

}  // namespace zt::ztunnel::dns
