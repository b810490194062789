#include "ztunnel/dns/cache.h"

#include <algorithm>
#include <chrono>

namespace zt::ztunnel::dns {

namespace {
// Of an entry beside its texts: two nodes and their blocks on the heap.
constexpr size_t kEntryOverhead = 256;
// Longer answers are rare and cheap to ask for again, compared to what they displace.
constexpr size_t kMaxCachedBytes = 8192;
}  // namespace

void CacheAccount::make_room(size_t bytes) {
  while (used_ + bytes > limit_ && used_ > 0) {
    PodCache& largest = **std::ranges::max_element(pods_, {}, [](const PodCache* pod) { return pod->bytes(); });
    largest.remove(std::prev(largest.entries_.end()));
  }
}

std::string exchange_key(const SocketAddress& upstream, const Query& query) {
  const View message = query.message();
  std::string key;
  key.reserve(message.size() + 20);
  const auto append = [&key](View bytes) { key.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); };
  append(upstream.ip.bytes());
  key += static_cast<char>(upstream.port >> 8);
  key += static_cast<char>(upstream.port);
  append(message.subspan(2));
  const size_t name = key.size() - (message.size() - kHeaderBytes);
  lower_case(std::span(reinterpret_cast<uint8_t*>(key.data()) + name, query.wire_name().size()));
  return key;
}

void adapt(Bytes& response, const Query& query) {
  write16(response, 0, query.id());
  const View questions = query.questions();
  if (questions.empty() || read16(response, 4) == 0 || response.size() < kHeaderBytes + questions.size()) return;
  std::ranges::copy(questions, response.begin() + kHeaderBytes);
}

size_t PodCache::Entry::bytes() const {
  return key.capacity() + response.capacity() + life.ttl_offsets.capacity() * sizeof(uint16_t) + kEntryOverhead;
}

PodCache::PodCache(CacheAccount& account, MemoryAccount& memory) : Claim(memory), worker_(account) { worker_.pods_.insert(this); }

PodCache::~PodCache() {
  worker_.used_ -= bytes_;
  worker_.pods_.erase(this);
}

bool PodCache::find(const std::string& key, const Query& query, Clock::time_point now, Bytes& out) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return false;
  const Entry& entry = *found->second;
  const auto age = static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(now - entry.since).count());
  if (age >= entry.life.seconds) {
    remove(found->second);
    return false;
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  out = entry.response;
  adapt(out, query);
  for (const uint16_t at : entry.life.ttl_offsets) {
    const uint32_t ttl = static_cast<uint32_t>(read16(out, at)) << 16 | read16(out, at + 2u);
    const uint32_t left = ttl - std::min(ttl, age);
    write16(out, at, static_cast<uint16_t>(left >> 16));
    write16(out, at + 2u, static_cast<uint16_t>(left));
  }
  return true;
}

void PodCache::put(const std::string& key, View response, Clock::time_point now) {
  if (response.size() > kMaxCachedBytes) return;
  auto life = lifetime(response);
  if (!life) return;
  if (const auto old = by_key_.find(key); old != by_key_.end()) remove(old->second);
  Entry entry{.key = key, .response = Bytes(response.begin(), response.end()), .life = std::move(*life), .since = now};
  const size_t bytes = entry.bytes();
  worker_.make_room(bytes);
  entries_.push_front(std::move(entry));
  by_key_.emplace(entries_.front().key, entries_.begin());
  bytes_ += bytes;
  worker_.used_ += bytes;
  if (!account().update(*this, bytes_, true)) revoke();
}

void PodCache::remove(Entries::iterator entry) {
  const size_t bytes = entry->bytes();
  bytes_ -= bytes;
  worker_.used_ -= bytes;
  by_key_.erase(entry->key);
  entries_.erase(entry);
  // Less always fits. Nothing, if this entry was not charged yet.
  if (bytes_ < Claim::bytes()) (void)account().update(*this, bytes_, false);
}

void PodCache::revoke() noexcept {
  const size_t keep = bytes_ / 2;
  while (bytes_ > keep && !entries_.empty()) remove(std::prev(entries_.end()));
}

}  // namespace zt::ztunnel::dns
