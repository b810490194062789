#include "hbone/receive_window.h"

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/hbone/tunnel_pair.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;

TEST_CASE("receivers that stop are not cut as long as what each may be sent at first fits into the memory budget") {
  Pair pair;
  constexpr size_t kStreams = 100, kFast = 2 << 20, kSent = 4 << 20;
  const size_t initial = pair.config.stream_window_initial;
  pair.memory.set(2 * kStreams * initial + (2 << 20));  // both ends of the tunnel are here
  // Fast until they have taken so much, then they stop. Without a word of what all of them may be sent, each window would have grown.
  pair.server.on_new = [](MemoryUser& user) { user.take_limit = kFast; };
  std::vector<std::unique_ptr<MemoryUser>> users;
  for (size_t i = 0; i < kStreams; ++i) users.push_back(pair.open_answered());
  for (const auto& user : users) user->send(std::string(kSent, 'x'));
  const auto sent = [&] {
    size_t bytes = 0;
    for (const auto& user : users) bytes += kSent - user->to_send.size();
    return bytes;
  };
  REQUIRE(pair.run([&] { return sent() >= kStreams * (kFast + initial); }, std::chrono::seconds(60)));
  for (int i = 0; i < 20; ++i) pair.loop.run_once(std::chrono::milliseconds(5));
  for (const auto& user : users) CHECK_FALSE(user->closed);
  CHECK(pair.memory.cuts() == 0);
  CHECK(pair.io.budget.used() >= kStreams * initial);
  CHECK(pair.memory.promised() <= pair.memory.limit());
}
