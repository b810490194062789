#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "identity/secret_manager.h"
#include "mesh/reason.h"
#include "tests/identity/fake_scheduler.h"
#include "tests/identity/support.h"

namespace zt::identity::test {

// A secret manager on a fake clock, with a CA that answers when the test says so, and no jitter unless asked
// for.
struct ManagerFixture {
  static constexpr std::chrono::hours kTtl{24};

  FakeScheduler scheduler;
  FakeCa ca;
  TestCa authority{scheduler.wall_now()};
  double jitter = 0;
  std::unique_ptr<SecretManager> manager = std::make_unique<SecretManager>(ca, scheduler, [this] { return jitter; });

  // What one get() was answered with; empty while it waits.
  using Answer = std::shared_ptr<std::vector<Result<Credentials>>>;
  Answer get(const SpiffeId& id) {
    auto answer = std::make_shared<std::vector<Result<Credentials>>>();
    manager->get(id, [answer](Result<Credentials> result) { answer->push_back(std::move(result)); });
    return answer;
  }

  CertificatePtr issue(const SpiffeId& id, std::chrono::seconds ttl = kTtl) {
    return authority.issue(id, ttl, scheduler.wall_now());
  }
  // Answers the oldest open request.
  CertificatePtr answer(std::chrono::seconds ttl = kTtl) {
    FakeCa::Request request = ca.take();
    CertificatePtr certificate = issue(request.id, ttl);
    request.done(certificate);
    scheduler.run_posted();
    return certificate;
  }
  void refuse(std::string text = "no") {
    ca.take().done(fail(Reason::kIdentityUnavailable, std::move(text)));
    scheduler.run_posted();
  }
  // Moves on to the next request to the CA.
  void next_request(std::chrono::minutes within = std::chrono::hours(24)) {
    scheduler.advance(within, [this] { return !ca.requests.empty(); });
    if (ca.requests.empty()) FAIL("no request within " << within.count() << " minutes");
  }
  // The CA refuses `times` requests in a row, the first of which is open.
  void refuse_times(int times) {
    for (int i = 0; i < times; ++i) {
      if (i > 0) next_request(std::chrono::minutes(4));
      refuse();
    }
  }
  CertificatePtr available(const SpiffeId& id, std::chrono::seconds ttl = kTtl) {
    manager->prefetch(id);
    return answer(ttl);
  }
  std::string state(const SpiffeId& id) {
    for (const IdentityStatus& status : manager->snapshot())
      if (status.identity == id.to_string()) return status.state;
    return "(unknown)";
  }
};

}  // namespace zt::identity::test
