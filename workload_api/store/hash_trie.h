#pragma once
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <utility>

namespace zt::workload_api {

// A persistent hash table (compressed hash-array mapped trie): copying one is one reference, and changing a
// copy costs the few nodes on the path to the entry; everything else stays shared. So a snapshot of a million
// entries is published by changing one path, and readers of older snapshots are not disturbed. Own code, since no library of
// Debian's has one: with one of 100,000 entries changed a new snapshot costs 3.6 us, and a copy of an absl::flat_hash_map
// 23.7 ms. A look-up pays for it: 0.52 us against 0.34 (bench/own_code_bench.cc, two loaded cores).
//
// Why not a library's hash table: with 100,000 entries, a change and its publication take 15 to 20 us; to copy an
// absl::flat_hash_map of them takes 14 ms, for each of the several tables, and leaves no memory shared. What a lookup pays: 480 ns
// out of cache where the flat map takes 310 to 350.
//
// Rules supplies the entry's key: `using Entry`, `static uint64_t hash(const Entry&)` (constant over an
// entry's life), and for every key type K used in lookups `static uint64_t hash(const K&)` and `static bool
// equal(const Entry&, const K&)`. put_all() also needs `static K key(const Entry&)`, which must not refer to
// the entry itself. Entries must be copyable without throwing (handles).
//
// Reads are safe on any thread as long as that copy of the table is not being changed. Changes are for one
// thread; a node that no other copy shares is changed in place, so a long series of changes copies each path
// once.
template <class Rules>
class HashTrie {
 public:
  using Entry = typename Rules::Entry;

  HashTrie() = default;
  HashTrie(const HashTrie& other) noexcept : root_(other.root_), size_(other.size_) { retain(root_); }
  HashTrie(HashTrie&& other) noexcept : root_(std::exchange(other.root_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  HashTrie& operator=(HashTrie other) noexcept {
    std::swap(root_, other.root_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HashTrie() { release(root_); }

  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }

  template <class Key>
  [[nodiscard]] const Entry* find(const Key& key) const {
    const uint64_t hash = Rules::hash(key);
    const Node* node = root_;
    for (unsigned shift = 0; node != nullptr; shift += kBits) {
      if (shift >= kHashBits) {
        for (uint32_t i = 0; i < node->entry_count(); ++i)
          if (Rules::equal(node->entry(i), key)) return &node->entry(i);
        return nullptr;
      }
      const uint64_t bit = bit_of(hash, shift);
      if (node->entry_bits & bit) {
        const Entry& entry = node->entry(index_of(node->entry_bits, bit));
        return Rules::equal(entry, key) ? &entry : nullptr;
      }
      if (!(node->child_bits & bit)) return nullptr;
      node = node->child(index_of(node->child_bits, bit));
    }
    return nullptr;
  }

  // Adds the entry, or replaces the one with an equal key.
  template <class Key>
  void put(const Key& key, Entry entry) {
    bool added = false;
    root_ = put_in(root_, 0, Rules::hash(key), key, std::move(entry), added);
    size_ += added;
  }

  // Calls change(Entry&) on the entry with that key, if there is one; the key must stay the same. What other
  // copies of the table see does not change.
  template <class Key, class Change>
  bool edit(const Key& key, Change&& change) {
    if (find(key) == nullptr) return false;  // do not copy a path for nothing
    const uint64_t hash = Rules::hash(key);
    Node** place = &root_;
    for (unsigned shift = 0;; shift += kBits) {
      Node* node = *place = writable(*place);
      if (node->list) {
        uint32_t at = 0;
        while (!Rules::equal(node->entry(at), key)) ++at;
        change(node->entry(at));
        return true;
      }
      const uint64_t bit = bit_of(hash, shift);
      if (node->entry_bits & bit) {
        change(node->entry(index_of(node->entry_bits, bit)));
        return true;
      }
      place = &node->children()[index_of(node->child_bits, bit)];
    }
  }

  // Adds or replaces many entries, whose keys must differ, and takes them out of `items`; those must be in
  // the order of their hashes. Makes each node once and in its final size, where put() makes nodes grow entry
  // by entry.
  struct Item {
    uint64_t hash;  // Rules::hash(entry)
    Entry entry;
  };
  void put_all(std::span<Item> items) { root_ = merge(root_, 0, items, size_); }

  template <class Key>
  bool erase(const Key& key) {
    if (find(key) == nullptr) return false;  // do not copy a path for nothing
    root_ = erase_in(root_, 0, Rules::hash(key), key);
    --size_;
    return true;
  }

  // In no particular order.
  template <class Visit>
  void for_each(Visit&& visit) const {
    if (root_ != nullptr) visit_node(root_, visit);
  }

 private:
  static constexpr unsigned kBits = 6;
  static constexpr unsigned kHashBits = 60;  // ten levels; below them a node is a plain list of entries whose hashes are equal

  // Layout: header, entries, children. The two bit maps say which of the 64 slots hold an entry and which a
  // child; in a list at the bottom entry_bits is the number of entries instead.
  struct Node {
    std::atomic<uint32_t> refs{1};
    bool list = false;
    uint64_t entry_bits = 0;
    uint64_t child_bits = 0;

    [[nodiscard]] uint32_t entry_count() const {
      return list ? static_cast<uint32_t>(entry_bits) : static_cast<uint32_t>(std::popcount(entry_bits));
    }
    [[nodiscard]] uint32_t child_count() const { return static_cast<uint32_t>(std::popcount(child_bits)); }
    Entry* entries() { return reinterpret_cast<Entry*>(this + 1); }
    [[nodiscard]] const Entry* entries() const { return reinterpret_cast<const Entry*>(this + 1); }
    Node** children() { return reinterpret_cast<Node**>(entries() + entry_count()); }
    [[nodiscard]] Node* const* children() const { return reinterpret_cast<Node* const*>(entries() + entry_count()); }
    Entry& entry(uint32_t i) { return entries()[i]; }
    [[nodiscard]] const Entry& entry(uint32_t i) const { return entries()[i]; }
    [[nodiscard]] Node* child(uint32_t i) const { return children()[i]; }
  };
  static_assert(alignof(Entry) <= alignof(Node) && sizeof(Entry) % alignof(Node*) == 0);

  // From the top bits down, so that the order of hashes is the order of slots.
  static uint64_t bit_of(uint64_t hash, unsigned shift) { return uint64_t{1} << ((hash >> (64 - kBits - shift)) & 63); }
  static uint32_t index_of(uint64_t bits, uint64_t bit) { return static_cast<uint32_t>(std::popcount(bits & (bit - 1))); }

  static void retain(Node* node) {
    if (node != nullptr) node->refs.fetch_add(1, std::memory_order_relaxed);
  }
  static void release(Node* node) {
    if (node == nullptr || node->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    std::destroy_n(node->entries(), node->entry_count());
    for (uint32_t i = 0, n = node->child_count(); i < n; ++i) release(node->child(i));
    dispose(node);
  }
  static void dispose(Node* node) {
    node->~Node();
    ::operator delete(node);
  }

  // Nobody else refers to the node. Changes go from the root down and make every node on the way writable
  // first, so this means that it is reachable through this table alone.
  static bool mine(const Node* node) { return node->refs.load(std::memory_order_acquire) == 1; }

  static Node* make(uint64_t entry_bits, uint64_t child_bits, bool list = false) {
    const size_t entries = list ? static_cast<size_t>(entry_bits) : static_cast<size_t>(std::popcount(entry_bits));
    const size_t children = static_cast<size_t>(std::popcount(child_bits));
    auto* node = new (::operator new(sizeof(Node) + entries * sizeof(Entry) + children * sizeof(Node*))) Node;
    node->list = list;
    node->entry_bits = entry_bits;
    node->child_bits = child_bits;
    return node;
  }

  // Takes what `from` holds into newly placed slots: moved out if the node is ours alone, copied (and
  // counted) if it is shared. The caller has then nothing left of `from`: its reference is consumed.
  struct Source {
    Node* node;
    bool owned;
  };
  static Source take(Node* node) { return {node, mine(node)}; }
  static void move_entries(const Source& from, uint32_t first, uint32_t count, Entry* to) {
    if (from.owned) {
      std::uninitialized_move_n(from.node->entries() + first, count, to);
    } else {
      std::uninitialized_copy_n(from.node->entries() + first, count, to);
    }
  }
  static void move_children(const Source& from, uint32_t first, uint32_t count, Node** to) {
    for (uint32_t i = 0; i < count; ++i) {
      to[i] = from.node->child(first + i);
      if (!from.owned) retain(to[i]);
    }
  }
  // Ends a take. Entries were moved from (and are destroyed here), children were taken over or counted.
  static void drop(const Source& from) {
    if (!from.owned) return release(from.node);
    std::destroy_n(from.node->entries(), from.node->entry_count());
    dispose(from.node);
  }

  // The node itself if it may be changed in place, else a copy that may.
  static Node* writable(Node* node) {
    if (mine(node)) return node;
    Node* copy = make(node->entry_bits, node->child_bits, node->list);
    const Source from{node, false};
    move_entries(from, 0, node->entry_count(), copy->entries());
    move_children(from, 0, node->child_count(), copy->children());
    release(node);
    return copy;
  }

  static Node* with_entry(Node* node, uint64_t bit, uint32_t at, Entry entry) {
    const Source from = take(node);
    const uint32_t count = node->entry_count();
    Node* grown = node->list ? make(node->entry_bits + 1, 0, true) : make(node->entry_bits | bit, node->child_bits);
    move_entries(from, 0, at, grown->entries());
    new (grown->entries() + at) Entry(std::move(entry));
    move_entries(from, at, count - at, grown->entries() + at + 1);
    move_children(from, 0, node->child_count(), grown->children());
    drop(from);
    return grown;
  }

  static Node* without_entry(Node* node, uint64_t bit, uint32_t at) {
    const uint32_t count = node->entry_count();
    if (count + node->child_count() == 1) {
      release(node);
      return nullptr;
    }
    const Source from = take(node);
    Node* shrunk = node->list ? make(node->entry_bits - 1, 0, true) : make(node->entry_bits & ~bit, node->child_bits);
    move_entries(from, 0, at, shrunk->entries());
    move_entries(from, at + 1, count - at - 1, shrunk->entries() + at);
    move_children(from, 0, node->child_count(), shrunk->children());
    drop(from);
    return shrunk;
  }

  // Puts `child` where an entry was.
  static Node* entry_to_child(Node* node, uint64_t bit, Node* child) {
    const Source from = take(node);
    const uint32_t entries = node->entry_count(), children = node->child_count();
    const uint32_t at = index_of(node->entry_bits, bit), to = index_of(node->child_bits, bit);
    Node* changed = make(node->entry_bits & ~bit, node->child_bits | bit);
    move_entries(from, 0, at, changed->entries());
    move_entries(from, at + 1, entries - at - 1, changed->entries() + at);
    move_children(from, 0, to, changed->children());
    changed->children()[to] = child;
    move_children(from, to, children - to, changed->children() + to + 1);
    drop(from);
    return changed;
  }

  // Removes the slot of a child that has become empty or is about to be replaced by its only entry; the child
  // is not released.
  static Node* child_to_entry(Node* node, uint64_t bit, const Entry* entry) {
    const uint32_t entries = node->entry_count(), children = node->child_count();
    if (entry == nullptr && entries + children == 1) {
      drop(Source{node, true});
      return nullptr;
    }
    const uint32_t from_child = index_of(node->child_bits, bit), at = index_of(node->entry_bits, bit);
    const Source from{node, true};
    Node* changed = make(entry != nullptr ? node->entry_bits | bit : node->entry_bits, node->child_bits & ~bit);
    move_entries(from, 0, at, changed->entries());
    if (entry != nullptr) new (changed->entries() + at) Entry(*entry);
    move_entries(from, at, entries - at, changed->entries() + at + (entry != nullptr));
    move_children(from, 0, from_child, changed->children());
    move_children(from, from_child + 1, children - from_child - 1, changed->children() + from_child);
    drop(from);
    return changed;
  }

  // A node for two entries with different keys.
  static Node* pair(Entry first, uint64_t first_hash, Entry second, uint64_t second_hash, unsigned shift) {
    if (shift >= kHashBits) {
      Node* node = make(2, 0, true);
      new (node->entries()) Entry(std::move(first));
      new (node->entries() + 1) Entry(std::move(second));
      return node;
    }
    const uint64_t a = bit_of(first_hash, shift), b = bit_of(second_hash, shift);
    if (a == b) {
      Node* child = pair(std::move(first), first_hash, std::move(second), second_hash, shift + kBits);
      Node* node = make(0, a);
      node->children()[0] = child;
      return node;
    }
    Node* node = make(a | b, 0);
    new (node->entries() + (a > b)) Entry(std::move(first));
    new (node->entries() + (b > a)) Entry(std::move(second));
    return node;
  }

  template <class Key>
  static Node* put_in(Node* node, unsigned shift, uint64_t hash, const Key& key, Entry&& entry, bool& added) {
    if (node == nullptr) {
      added = true;
      const bool list = shift >= kHashBits;
      Node* leaf = make(list ? 1 : bit_of(hash, shift), 0, list);
      new (leaf->entries()) Entry(std::move(entry));
      return leaf;
    }
    if (node->list) {
      for (uint32_t i = 0; i < node->entry_count(); ++i) {
        if (!Rules::equal(node->entry(i), key)) continue;
        node = writable(node);
        node->entry(i) = std::move(entry);
        return node;
      }
      added = true;
      return with_entry(node, 0, node->entry_count(), std::move(entry));
    }
    const uint64_t bit = bit_of(hash, shift);
    if (node->child_bits & bit) {
      node = writable(node);
      Node*& child = node->children()[index_of(node->child_bits, bit)];
      child = put_in(child, shift + kBits, hash, key, std::move(entry), added);
      return node;
    }
    const uint32_t at = index_of(node->entry_bits, bit);
    if (!(node->entry_bits & bit)) {
      added = true;
      return with_entry(node, bit, at, std::move(entry));
    }
    if (Rules::equal(node->entry(at), key)) {
      node = writable(node);
      node->entry(at) = std::move(entry);
      return node;
    }
    added = true;
    Entry present = node->entry(at);
    const uint64_t present_hash = Rules::hash(present);
    return entry_to_child(node, bit, pair(std::move(present), present_hash, std::move(entry), hash, shift + kBits));
  }

  static Node* merge(Node* node, unsigned shift, std::span<Item> items, size_t& size) {
    if (items.size() <= 1 || shift >= kHashBits) {
      for (Item& item : items) {
        bool added = false;
        const auto key = Rules::key(item.entry);
        node = put_in(node, shift, item.hash, key, std::move(item.entry), added);
        size += added;
      }
      return node;
    }
    const uint64_t old_entries = node != nullptr ? node->entry_bits : 0;
    const uint64_t old_children = node != nullptr ? node->child_bits : 0;
    // An item gets a slot of its own where no other entry wants it.
    uint64_t entry_bits = old_entries, child_bits = old_children;
    for (size_t first = 0, last; first < items.size(); first = last) {
      const uint64_t bit = bit_of(items[first].hash, shift);
      last = end_of_slot(items, first, shift);
      if (child_bits & bit) continue;
      const bool single = last - first == 1;
      const bool keeps_entry = single && (!(old_entries & bit) ||
                                          Rules::equal(node->entry(index_of(old_entries, bit)), Rules::key(items[first].entry)));
      (keeps_entry ? entry_bits : child_bits) |= bit;
      if (!keeps_entry) entry_bits &= ~bit;
    }

    const Source from = node != nullptr ? take(node) : Source{nullptr, false};
    Node* made = make(entry_bits, child_bits);
    Entry* entries = made->entries();
    Node** children = made->children();
    size_t first = 0;
    for (uint64_t left = entry_bits | child_bits; left != 0; left &= left - 1) {
      const uint64_t bit = left & -left;
      const bool touched = first < items.size() && bit_of(items[first].hash, shift) == bit;
      const size_t last = touched ? end_of_slot(items, first, shift) : first;
      const std::span<Item> slot = items.subspan(first, last - first);
      first = last;
      if (entry_bits & bit) {
        if (!touched) {
          move_entries(from, index_of(old_entries, bit), 1, entries++);
          continue;
        }
        new (entries++) Entry(std::move(slot.front().entry));
        size += (old_entries & bit) == 0;
        continue;
      }
      Node* child = nullptr;
      if (old_children & bit) {
        move_children(from, index_of(old_children, bit), 1, &child);
      } else if (old_entries & bit) {
        const uint32_t at = index_of(old_entries, bit);
        const bool list = shift + kBits >= kHashBits;
        child = make(list ? 1 : bit_of(Rules::hash(node->entry(at)), shift + kBits), 0, list);
        move_entries(from, at, 1, child->entries());
      }
      *children++ = touched ? merge(child, shift + kBits, slot, size) : child;
    }
    if (node != nullptr) drop(from);
    return made;
  }
  static size_t end_of_slot(std::span<const Item> items, size_t first, unsigned shift) {
    const uint64_t bit = bit_of(items[first].hash, shift);
    size_t last = first + 1;
    while (last < items.size() && bit_of(items[last].hash, shift) == bit) ++last;
    return last;
  }

  template <class Key>
  static Node* erase_in(Node* node, unsigned shift, uint64_t hash, const Key& key) {  // the key is there
    if (node->list) {
      uint32_t at = 0;
      while (!Rules::equal(node->entry(at), key)) ++at;
      return without_entry(node, 0, at);
    }
    const uint64_t bit = bit_of(hash, shift);
    if (node->entry_bits & bit) return without_entry(node, bit, index_of(node->entry_bits, bit));
    const uint32_t at = index_of(node->child_bits, bit);
    node = writable(node);
    Node* child = erase_in(node->child(at), shift + kBits, hash, key);
    node->children()[at] = child;
    if (child == nullptr) return child_to_entry(node, bit, nullptr);
    if (child->child_bits == 0 && child->entry_count() == 1) {  // keep the form canonical: single entries move up
      Node* changed = child_to_entry(node, bit, &child->entry(0));
      release(child);
      return changed;
    }
    return node;
  }

  template <class Visit>
  static void visit_node(const Node* node, Visit& visit) {
    for (uint32_t i = 0, n = node->entry_count(); i < n; ++i) visit(node->entry(i));
    for (uint32_t i = 0, n = node->child_count(); i < n; ++i) visit_node(node->child(i), visit);
  }

  Node* root_ = nullptr;
  size_t size_ = 0;
};

}  // namespace zt::workload_api
