// A call through both proxies while any of their system calls fails.
#include "tests/ztunnel/proxy/two_data_planes.h"

using namespace zt;
using namespace zt::ztunnel;
using namespace zt::ztunnel::testing;
using namespace std::chrono_literals;
using zt::testing::OwnCalls;

namespace {

// A call of an application through both proxies, with a tunnel of its own. True: it got its bytes back. False: it saw an error or
// an end instead, in time.
bool one_call(const Mesh& mesh) {
  const OwnCalls own;
  const UniqueFd fd = mesh.dial();
  if (!fd) return false;
  const std::string sent(20'000, 'c');
  if (send(fd.get(), sent.data(), sent.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(sent.size())) return false;
  std::string got(sent.size(), '\0');
  for (size_t have = 0; have < got.size();) {
    const ssize_t n = recv(fd.get(), got.data() + have, got.size() - have, 0);
    if (n < 0 && errno == EAGAIN) FAIL_CHECK("the call hangs");
    if (n <= 0) return false;
    have += static_cast<size_t>(n);
  }
  return got == sent;
}

// Until nothing is left of a call: relays and tunnels are closed when both proxies have come to it.
bool settles(size_t descriptors) {
  const OwnCalls own;
  for (const auto limit = Clock::now() + 20s; zt::testing::count_descriptors() != descriptors;) {
    if (Clock::now() > limit) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

}  // namespace

TEST_CASE("whatever call of a proxy fails, the application's call ends in time, the next one works and no descriptor is lost") {
  const bool interrupted = GENERATE(false, true);
  const auto calls = interrupted ? zt::testing::interrupted_calls() : zt::testing::every_call();
  Mesh mesh({}, {}, 1ms);
  const size_t idle = zt::testing::count_descriptors();
  REQUIRE(one_call(mesh));  // with certificates and what else is made once
  REQUIRE(settles(idle));
  size_t nth = 1;
  for (std::string failed = "-"; !failed.empty(); ++nth) {
    bool well;
    {
      const zt::testing::FailNth fail(calls, nth);
      well = one_call(mesh);
      const bool settled = settles(idle);
      failed = fail.failed();
      INFO(failed);
      CHECK(settled);
    }
    INFO(failed);
    if (failed.empty() || interrupted) CHECK(well);
    CHECK(one_call(mesh));
    CHECK(settles(idle));
  }
  CHECK(nth > 50);
}
