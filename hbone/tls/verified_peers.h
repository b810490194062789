#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "identity/openssl_ptr.h"
#include "identity/spiffe_id.h"
#include "identity/wall_time.h"

namespace zt::hbone {

// A peer's certificates as verified, leaf first, trust anchor last. Tunnels to the same peer share one.
using PeerChain = std::shared_ptr<const std::vector<identity::X509Ptr>>;

// What verification found out about a chain, as far as it depends on nothing but the chain and our roots.
struct VerifiedPeer {
  std::vector<identity::SpiffeId> ids;  // SPIFFE SANs of the leaf, in order
  PeerChain chain;                      // nothing unless the context keeps chains
  identity::WallTime not_before;        // the time in which every certificate of the chain is valid
  identity::WallTime not_after;
};

// Chains that were verified before. A peer dials many tunnels with one certificate: of the same bytes, under
// the same roots and for the same purpose, the signatures need no second look while all of them are valid.
// What can change otherwise is asked each time: the validity by our clock, revocation, the SPIFFE rules, and
// of course whether the peer has the private key (CertificateVerify).
//
// Keeps the kMaxPeers used last (some 300 bytes each, and a few KiB more where chains are kept). One
// thread's.
class VerifiedPeers {
 public:
  static constexpr size_t kMaxPeers = 2048;
  // SHA-256 over the role, the roots and the presented certificates.
  using Key = std::array<uint8_t, 32>;

  // Nothing if the chain was not verified before, or is not valid at `now`.
  [[nodiscard]] const VerifiedPeer* find(const Key& key, identity::WallTime now);
  const VerifiedPeer& insert(const Key& key, VerifiedPeer peer);
  [[nodiscard]] size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    Key key;
    VerifiedPeer peer;
  };
  struct FirstBytes {  // of a digest: as good a hash as any
    size_t operator()(const Key& key) const {
      size_t hash = 0;
      std::memcpy(&hash, key.data(), sizeof hash);
      return hash;
    }
  };
  std::list<Entry> entries_;  // used last first
  std::unordered_map<Key, std::list<Entry>::iterator, FirstBytes> by_key_;
};

}  // namespace zt::hbone
