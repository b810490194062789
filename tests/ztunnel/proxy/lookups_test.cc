#include "ztunnel/proxy/lookups.h"

#include <catch2/catch.hpp>
#include <map>
#include <optional>

using namespace zt;
using namespace zt::ztunnel;
using namespace std::chrono_literals;

namespace {

struct Fixture {
  EventLoop loop;
  StateView state{loop};
  std::map<std::string, size_t> asked;  // by asker
  workload_api::LookupDone last;
  LookupRequest request = [this](const std::string&, const std::string& asker, workload_api::LookupDone done) {
    ++asked[asker];
    last = std::move(done);
  };
  Lookups of(const std::string& pod) { return {loop, state, pod, "", 0s, request}; }
  TaskScope tasks{loop};
};

Task<void> ask(Lookups& lookups, std::optional<LookupAnswer>& answer) { answer = co_await lookups.look_up("/10.0.0.1", 20s); }
Task<void> ask_service(Lookups& lookups, std::string host) { co_await lookups.find_service("shop", std::move(host)); }
Task<void> ask_source(Lookups& lookups, std::string ip) { co_await lookups.find_source(*IpAddress::parse(ip)); }

}  // namespace

TEST_CASE("on demand, peers that name many addresses or services make us ask for a bounded number of them, pod by pod") {
  Fixture f;
  Lookups attacked = f.of("attacked"), other = f.of("other");
  TaskScope tasks(f.loop);
  const bool services = GENERATE(false, true);
  const auto name = [&](Lookups& lookups, const std::string& number) {
    tasks.spawn(services ? ask_service(lookups, "s" + number) : ask_source(lookups, "2001:db8::" + number));
  };
  for (size_t i = 0; i < 2 * Lookups::kMaxAsked; ++i) name(attacked, std::to_string(i));
  name(other, "1");
  CHECK(f.asked["peers of attacked"] == Lookups::kMaxAsked);
  CHECK(f.asked["peers of other"] == 1);
}

TEST_CASE("how a lookup ended reaches whoever asked") {
  Fixture f;
  Lookups lookups = f.of("pod");
  const auto given = GENERATE(LookupAnswer::kAnswered, LookupAnswer::kTimedOut, LookupAnswer::kRefused);
  std::optional<LookupAnswer> answer;
  f.tasks.spawn(ask(lookups, answer));
  CHECK_FALSE(answer);
  f.last(given);
  CHECK(f.loop.run_until([&] { return answer.has_value(); }, 20s));
  CHECK(answer == given);
  CHECK(f.asked == std::map<std::string, size_t>{{"pod", 1}});
}

TEST_CASE("an answer to a pod that has gone is dropped") {
  Fixture f;
  auto lookups = std::make_unique<Lookups>(f.loop, f.state, "pod", "", 0s, f.request);
  std::optional<LookupAnswer> answer;
  {
    TaskScope tasks(f.loop);
    tasks.spawn(ask(*lookups, answer));
  }
  lookups.reset();
  f.last(LookupAnswer::kAnswered);
  f.loop.run_once(0s);
  CHECK_FALSE(answer);
}
