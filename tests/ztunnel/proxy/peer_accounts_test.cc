#include "ztunnel/proxy/peer_accounts.h"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

using namespace zt;
using namespace zt::ztunnel;

namespace {

constexpr size_t kKiB = 1024;

struct Holder : MemoryAccount::Claim {
  explicit Holder(PeerAccounts::Ptr from) : Claim(*from), account_kept(std::move(from)) {}
  ~Holder() override { release(); }
  bool hold(size_t bytes) { return account().update(*this, bytes, true); }
  void revoke() noexcept override {
    ++revoked;
    release();
  }
  PeerAccounts::Ptr account_kept;
  int revoked = 0;
};

struct Pod {
  MemoryLimit limit{100 * kKiB};
  MemoryAccount worker{limit}, account{worker, "shop/server"};
  PeerAccounts peers{account};
};

const IpAddress kGreedy = IpAddress::v4(0x0a000001), kQuiet = IpAddress::v4(0x0a000002);

}  // namespace

TEST_CASE("of the peers of one pod the one that grew pays, not its neighbours") {
  Pod pod;
  // The neighbour has waited for longer, and it is the neighbour who asks next.
  Holder quiet(pod.peers.of(kQuiet));
  REQUIRE(quiet.hold(20 * kKiB));
  std::vector<std::unique_ptr<Holder>> greedy;
  for (int i = 0; i < 7; ++i) {
    greedy.push_back(std::make_unique<Holder>(pod.peers.of(kGreedy)));  // tunnels of its own, and one peer
    REQUIRE(greedy.back()->hold(10 * kKiB));
  }
  Holder more(pod.peers.of(kQuiet));
  CHECK(more.hold(20 * kKiB));
  CHECK(quiet.revoked == 0);
  CHECK(greedy[0]->revoked == 1);
  for (size_t i = 1; i < greedy.size(); ++i) CHECK(greedy[i]->revoked == 0);
  CHECK(pod.peers.of(kGreedy)->path() == "shop/server/10.0.0.1");
}

TEST_CASE("a peer has one account while anybody uses it, and none when nobody does") {
  Pod pod;
  auto one = pod.peers.of(kGreedy), other = pod.peers.of(kGreedy);
  CHECK(one == other);
  CHECK(pod.peers.of(kQuiet) != one);
  CHECK(pod.peers.size() == 1);
  one.reset();
  CHECK(pod.peers.size() == 1);
  other.reset();
  CHECK(pod.peers.size() == 0);
}

TEST_CASE("what is held for a peer after its tunnels have gone keeps its account until it goes") {
  struct Kept final : MemoryAccount::Claim {
    using Claim::Claim;
    void revoke() noexcept override { release(); }
    ~Kept() override { release(); }
  };
  Pod pod;
  auto tunnel = pod.peers.of(kGreedy);
  auto kept = std::make_unique<Kept>(*tunnel);
  REQUIRE(tunnel->update(*kept, kKiB, true));
  tunnel.reset();
  CHECK(pod.peers.size() == 1);
  CHECK(pod.account.used() == kKiB);
  SECTION("it comes again meanwhile") {
    tunnel = pod.peers.of(kGreedy);
    CHECK(tunnel->used() == kKiB);
    kept.reset();
    tunnel.reset();
    CHECK(pod.peers.size() == 0);
  }
  SECTION("it goes") {
    kept.reset();
    CHECK(pod.account.used() == 0);
    (void)pod.peers.of(kQuiet);  // whoever comes next
    CHECK(pod.peers.size() == 0);
  }
}
