#pragma once
#include <memory>

#include "identity/certificate.h"
#include "identity/scheduler.h"
#include "identity/wall_time.h"

namespace zt::identity {

// The newest root bundle of one CA, as its certificates bring it. All identities verify peers with it
// (contract §14 #25).
class NewestRoots {
 public:
  enum class Outcome : uint8_t { kFirst, kSame, kReplaced, kOlder };

  // `requested` and `now`: when the request for this certificate went out, and when it came back. Answers may
  // overtake each other while the CA changes its roots: one that was asked for before the present roots came
  // in may carry the older ones, and then the certificate that was issued later is right. One that was asked
  // for after that is newer, whatever its dates say.
  Outcome offer(const WorkloadCertificate& certificate, Scheduler::Clock::time_point requested, Scheduler::Clock::time_point now);

  [[nodiscard]] const std::shared_ptr<const TrustBundle>& bundle() const { return bundle_; }  // nothing before the first

 private:
  std::shared_ptr<const TrustBundle> bundle_;
  Scheduler::Clock::time_point adopted_;
  WallTime issued_;  // not_before of the certificate that brought it
};

}  // namespace zt::identity
