#include "base/memory_account.h"

#include <catch2/catch.hpp>
#include <memory>
#include <thread>
#include <vector>

using namespace zt;

namespace {

constexpr size_t kKiB = 1024;

// Holds memory until it is asked to give it up.
struct Holder : MemoryAccount::Claim {
  explicit Holder(MemoryAccount& from) : Claim(from) {}
  bool hold(size_t bytes, bool moved = false) { return account().update(*this, bytes, moved); }
  void revoke() noexcept override {
    ++revoked;
    release();
  }
  int revoked = 0;
};

}  // namespace

TEST_CASE("what is held is counted in every account up to the root, and is gone with its claim") {
  MemoryLimit limit(1024 * kKiB);
  MemoryAccount worker(limit), pod(worker, "pod"), peer(pod, "10.0.0.1");
  {
    Holder a(peer), b(peer);
    CHECK(a.hold(100));
    CHECK(b.hold(50));
    CHECK(a.hold(30));
    CHECK(peer.used() == 80);
    CHECK(pod.used() == 80);
    CHECK(worker.used() == 80);
    CHECK(peer.path() == "pod/10.0.0.1");
  }
  CHECK(worker.used() == 0);
  CHECK(limit.drawn() == 0);
  CHECK(limit.cuts() == 0);
}

TEST_CASE("within an account whoever has not moved for the longest pays") {
  MemoryLimit limit(100 * kKiB);
  MemoryAccount worker(limit), pod(worker, "pod");
  Holder a(pod), b(pod), c(pod), nothing(pod);
  CHECK(a.hold(40 * kKiB));
  CHECK(b.hold(40 * kKiB));
  CHECK(nothing.hold(0));
  CHECK(a.hold(40 * kKiB, true));
  CHECK(c.hold(40 * kKiB));
  CHECK(a.revoked == 0);
  CHECK(b.revoked == 1);
  CHECK(nothing.revoked == 0);
  CHECK(limit.cuts() == 1);
  CHECK(limit.cut_bytes() == 40 * kKiB);
}

TEST_CASE("the account that holds most pays, not whoever asks next and not whoever has waited for the longest") {
  MemoryLimit limit(100 * kKiB);
  MemoryAccount worker(limit), quiet(worker, "quiet"), greedy(worker, "greedy");
  MemoryAccount quiet_peer(quiet, "1"), greedy_first(greedy, "1"), greedy_second(greedy, "2");
  Holder old(quiet_peer);
  CHECK(old.hold(20 * kKiB));
  std::vector<std::unique_ptr<Holder>> taken;
  for (int i = 0; i < 7; ++i) {
    taken.push_back(std::make_unique<Holder>(i < 5 ? greedy_first : greedy_second));
    CHECK(taken.back()->hold(10 * kKiB));
  }
  // 90 of 100 are held. The quiet pod asks; the greedy one's larger peer pays, and there its oldest.
  Holder more(quiet_peer);
  CHECK(more.hold(20 * kKiB));
  CHECK(old.revoked == 0);
  CHECK(taken[0]->revoked == 1);
  for (size_t i = 1; i < taken.size(); ++i) CHECK(taken[i]->revoked == 0);
}

TEST_CASE("who alone holds most in its account and asks for more is refused, and keeps what it had") {
  MemoryLimit limit(100 * kKiB);
  MemoryAccount worker(limit), a(worker, "a"), b(worker, "b");
  Holder small(a), large(b);
  CHECK(small.hold(30 * kKiB));
  CHECK(large.hold(60 * kKiB));
  CHECK_FALSE(large.hold(80 * kKiB));
  CHECK(large.bytes() == 60 * kKiB);
  CHECK(small.revoked == 0);
  CHECK(worker.used() == 90 * kKiB);
  CHECK_FALSE(small.hold(101 * kKiB));  // would not fit alone
  CHECK(small.bytes() == 30 * kKiB);
  CHECK(large.revoked == 0);
  CHECK(limit.cuts() == 2);
}

TEST_CASE("a worker may use what the others do not, however many they are") {
  MemoryLimit limit(64 * 1024 * kKiB);
  std::vector<std::unique_ptr<MemoryAccount>> workers;
  for (int i = 0; i < 64; ++i) workers.push_back(std::make_unique<MemoryAccount>(limit));
  MemoryAccount pod(*workers[0], "pod");
  std::vector<std::unique_ptr<Holder>> streams;
  for (int i = 0; i < 1000; ++i) {
    streams.push_back(std::make_unique<Holder>(pod));
    REQUIRE(streams.back()->hold(64 * kKiB));
  }
  CHECK(limit.cuts() == 0);
  CHECK(pod.used() == 1000 * 64 * kKiB);
}

TEST_CASE("a worker below its share gets memory, and one above its share gives it up") {
  MemoryLimit limit(100 * kKiB);
  int woken = 0;
  MemoryAccount first(limit, [&] { ++woken; }), second(limit);
  Holder a(first), b(first), c(second);
  CHECK(a.hold(50 * kKiB));
  CHECK(b.hold(50 * kKiB));
  CHECK(c.hold(40 * kKiB));
  CHECK(woken == 1);
  CHECK(a.revoked == 0);  // on its own thread, when it is told
  first.relieve();
  CHECK(a.revoked == 1);
  CHECK(b.revoked == 0);
  CHECK(limit.drawn() <= limit.limit());
  // Above its share it pays itself.
  Holder d(second);
  CHECK(d.hold(20 * kKiB));
  CHECK(c.revoked == 1);
  CHECK(b.revoked == 0);
}

TEST_CASE("a limit that falls is kept at once, one that rises is used at once") {
  MemoryLimit limit(100 * kKiB);
  MemoryAccount* told = nullptr;
  MemoryAccount worker(limit, [&] { told->relieve(); });
  told = &worker;
  Holder a(worker), b(worker), c(worker);
  CHECK(a.hold(40 * kKiB));
  CHECK(b.hold(40 * kKiB));
  limit.set(50 * kKiB);
  CHECK(a.revoked == 1);
  CHECK(b.revoked == 0);
  CHECK(worker.used() == 40 * kKiB);
  limit.set(200 * kKiB);
  CHECK(c.hold(160 * kKiB));
  CHECK(b.revoked == 0);
}

TEST_CASE("a claim that cannot be given up stops nobody for ever") {
  struct Stubborn : MemoryAccount::Claim {
    using Claim::Claim;
    void revoke() noexcept override {}
  };
  MemoryLimit limit(100 * kKiB);
  MemoryAccount worker(limit);
  Stubborn stubborn(worker);
  Holder other(worker);
  CHECK(worker.update(stubborn, 90 * kKiB, false));
  CHECK_FALSE(other.hold(20 * kKiB));
  CHECK(worker.used() == 90 * kKiB);
}

TEST_CASE("promises are made while all of them fit and end with who made them") {
  MemoryLimit limit(1000 * kKiB);
  {
    MemoryPromise a(limit), b(limit);
    CHECK(a.grow_to(600 * kKiB));
    CHECK_FALSE(b.grow_to(500 * kKiB));
    CHECK(b.bytes() == 0);
    CHECK(b.grow_to(400 * kKiB));
    a.set(100 * kKiB);
    CHECK(b.grow_to(900 * kKiB));
    b.set(2000 * kKiB);  // by the protocol
    CHECK_FALSE(a.grow_to(101 * kKiB));
  }
  CHECK(limit.promised() == 0);
}

TEST_CASE("workers that take and give at once never hold more than the limit and lose nothing of it") {
  MemoryLimit limit(8 * 1024 * kKiB);
  const auto work = [&limit](unsigned seed) {
    MemoryAccount worker(limit);
    MemoryAccount pod(worker, "pod");
    std::vector<std::unique_ptr<Holder>> held;
    for (int i = 0; i < 64; ++i) held.push_back(std::make_unique<Holder>(pod));
    for (int i = 0; i < 20'000; ++i) {
      seed = seed * 1664525 + 1013904223;
      Holder& one = *held[(seed >> 8) % held.size()];
      (void)one.hold((seed >> 16) % 65536, (seed & 16) != 0);
      // A share of it by right, and others' shares for the moment until they are told.
      if (limit.drawn() > 2 * limit.limit()) return false;
    }
    return true;
  };
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (unsigned t = 0; t < 4; ++t) threads.emplace_back([&, t] { good += work(t + 1) ? 1 : 0; });
  for (auto& thread : threads) thread.join();
  CHECK(good == 4);
  CHECK(limit.drawn() == 0);
}
