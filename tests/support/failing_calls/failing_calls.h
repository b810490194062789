#pragma once
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

// Lets the Nth system call of a scenario fail, for N = 1, 2, … until a run comes to its end without.
//
// A test program that links zt_failing_calls has the calls below, as our own code makes them, go through here (the linker's
// --wrap; calls made within shared libraries, OpenSSL's and libnftables' among them, do not). Nothing happens to them unless a
// FailNth lives. Any thread.
namespace zt::testing {

enum class Call : uint8_t {
  kSocket,
  kBind,
  kListen,
  kConnect,
  kAccept,  // accept4 as well
  kSetsockopt,
  kGetsockopt,
  kEpollCtl,
  kEpollWait,
  kSend,
  kSendmsg,
  kRecv,
  kRecvmsg,
  kRead,
  kReadv,
  kWrite,
  kWritev,
  kSplice,
  kPipe2,
  kOpen,
  kFcntl,
  kIoctl,
  kPoll,
  kFstat,
  kFstatfs,
  kRename,
  kUnlink,
  kFchmod,
  kInotifyInit,
  kInotifyAddWatch,
  kCount_,
};
[[nodiscard]] const char* call_name(Call call);

// The calls that shall fail, each in its own way.
struct FailingCall {
  Call call;
  int error;
};
using FailingCalls = std::vector<FailingCall>;

// What can happen to a process that is short of descriptors, memory, ports or disk, or whose peers go away: one error a call.
[[nodiscard]] FailingCalls every_call();
// Those of them that a signal can interrupt.
[[nodiscard]] FailingCalls interrupted_calls();
// `calls` without some.
[[nodiscard]] FailingCalls without(FailingCalls calls, std::initializer_list<Call> excepted);

// From its making to its end, the `nth` (from 1) of these calls in this process fails, once. One at a time.
class FailNth {
 public:
  FailNth(const FailingCalls& calls, size_t nth);
  ~FailNth();
  FailNth(const FailNth&) = delete;
  // Nothing counts, whoever calls, while it is held: for what leads to a scenario on several threads.
  void hold();
  void release();
  // "sendmsg (call #17): Broken pipe"; empty: it has not come to that call.
  [[nodiscard]] std::string failed() const;

 private:
  size_t nth_;
};

// What the calling thread does meanwhile is the test's own: it does not count and does not fail.
class OwnCalls {
 public:
  OwnCalls();
  ~OwnCalls();
  OwnCalls(const OwnCalls&) = delete;
};

[[nodiscard]] size_t count_descriptors();

// Runs `scenario(fail)` for N = 1, 2, … until one run has no Nth call left, which must have succeeded like any: the scenario
// checks for itself how it may end. `fail.failed()` says what went wrong this time. Returns how many calls there were to fail.
// Leaked descriptors are found by comparing their number before and after each run.
template <class F>
size_t fail_each(const FailingCalls& calls, F&& scenario) {
  constexpr size_t kMost = 20'000;  // a scenario with more calls never ends
  for (size_t nth = 1;; ++nth) {
    INFO("call #" << nth);
    REQUIRE(nth < kMost);
    const size_t before = count_descriptors();
    std::string failed;
    {
      FailNth fail(calls, nth);
      scenario(fail);
      failed = fail.failed();
    }
    INFO(failed);
    CHECK(count_descriptors() == before);
    if (failed.empty()) return nth - 1;
  }
}

}  // namespace zt::testing
