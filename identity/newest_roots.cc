#include "identity/newest_roots.h"

namespace zt::identity {

NewestRoots::Outcome NewestRoots::offer(const WorkloadCertificate& certificate, Scheduler::Clock::time_point requested,
                                        Scheduler::Clock::time_point now) {
  const bool first = bundle_ == nullptr;
  if (!first) {
    if (certificate.roots()->same_roots(*bundle_)) return Outcome::kSame;
    if (requested < adopted_ && certificate.not_before() < issued_) return Outcome::kOlder;
  }
  bundle_ = certificate.roots();
  adopted_ = now;
  issued_ = certificate.not_before();
  return first ? Outcome::kFirst : Outcome::kReplaced;
}

}  // namespace zt::identity
