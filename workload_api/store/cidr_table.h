#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "workload_api/store/hash_trie.h"
#include "workload_api/store/tables.h"

namespace zt::workload_api {

// Services whose VIP is an address block. A lookup asks once per prefix length that the network really uses
// (a handful), from the longest down, so its cost does not grow with the number of blocks. Copies share
// everything, as HashTrie does.
class CidrTable {
 public:
  // Puts `service` in the place of `old` among the services of the block; either may be null.
  void replace(const NetworkCidr& block, const Service* old, const ServicePtr& service);

  // visit(const Service&, uint8_t prefix_length) for every block of `network` that contains `ip`, longest
  // first, and within a block in the order of the services' names.
  template <class Visit>
  void for_each_containing(std::string_view network, const IpAddress& ip, Visit&& visit) const {
    const Lengths* lengths = find_lengths(network);
    if (lengths == nullptr) return;
    for (int length = ip.is_v4() ? 32 : 128; length >= 0; --length) {
      if ((ip.is_v4() ? lengths->v4[static_cast<size_t>(length)] : lengths->v6[static_cast<size_t>(length)]) == 0) continue;
      const auto* found = blocks_.find(Key{network, masked(ip, static_cast<uint8_t>(length))});
      if (found == nullptr) continue;
      for (const ServicePtr& service : (*found)->services) visit(*service, static_cast<uint8_t>(length));
    }
  }

 private:
  struct Key {
    std::string_view network;
    Cidr cidr;  // base is masked
  };
  struct Rules {
    using Entry = Ref<BlockServices>;
    static uint64_t hash(const Key& key) {
      return hashing::mix(hashing::of(key.network), hashing::mix(hashing::of(key.cidr.base), key.cidr.prefix_length));
    }
    static uint64_t hash(const Entry& entry) { return hash(Key{entry->key.network.view(), entry->key.cidr}); }
    static bool equal(const Entry& entry, const Key& key) {
      return entry->key.cidr == key.cidr && entry->key.network.view() == key.network;
    }
  };
  // How many blocks of each prefix length a network has.
  struct Lengths {
    Str network;
    std::array<uint32_t, 33> v4{};
    std::array<uint32_t, 129> v6{};
    uint32_t blocks = 0;
  };
  struct AllLengths : RefCounted {
    std::vector<Lengths> networks;
  };

  static Cidr masked(const IpAddress& ip, uint8_t length);
  [[nodiscard]] const Lengths* find_lengths(std::string_view network) const;
  void count(const NetworkCidr& block, int change);

  HashTrie<Rules> blocks_;
  Ref<AllLengths> lengths_;
};

}  // namespace zt::workload_api
