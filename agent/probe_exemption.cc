#include "agent/probe_exemption.h"

#include <utility>

#include "agent/kubernetes/kubelet.h"
#include "base/log.h"

namespace zt::agent {

namespace {
log::Scope log_probes("probes");
}  // namespace

ProbeExemption::ProbeExemption(EventLoop& loop, Options options) : options_(std::move(options)), timer_(loop) {
  timer_.start_after(options_.interval, [this] { check(); });
}

void ProbeExemption::set(redirection::ProbedPods pods) {
  if (pods_ == pods) return;
  pods_ = std::move(pods);
  apply();
}

void ProbeExemption::remove() {
  timer_.cancel();
  pods_.reset();
  const auto host = Netns::open(options_.proc + "/1/ns/net");
  const auto removed = host ? redirection::HostProbes::remove(*host) : Result<>(std::unexpected(host.error()));
  if (removed) return;
  ZT_LOG(log_probes, kError, "cannot remove the rules for kubelet's probes", Field::string("error", removed.error().text));
}

void ProbeExemption::check() {
  timer_.start_after(options_.interval, [this] { check(); });
  if (!pods_) return;
  // Kubelet may have come later than we, or come back as somebody else.
  const auto kubelets = kubelet_users(options_.proc);
  const auto holds = applied_ && rules_ ? rules_->holds() : Result<bool>(false);
  if (holds && *holds && kubelets && *kubelets == kubelets_) return;
  const bool changed = applied_ && holds && !*holds;
  apply();
  if (!changed || !applied_) return;
  ++repairs_;
  ZT_LOG(log_probes, kWarn, "somebody has changed the rules for kubelet's probes: they are put back");
}

void ProbeExemption::apply() {
  const auto applied = try_apply();
  applied_ = applied.has_value();
  if (applied) {
    if (!std::exchange(last_error_, {}).empty()) ZT_LOG(log_probes, kInfo, "kubelet's probes are let past the proxy again");
    return;
  }
  ++failures_;
  if (std::exchange(last_error_, applied.error().text) == applied.error().text) return;
  ZT_LOG(log_probes, kError, "kubelet's probes are not let past the proxy, and policies may refuse them; it is tried again",
         Field::string("error", applied.error().text));
}

Result<> ProbeExemption::try_apply() {
  if (!rules_) {
    ZT_ASSIGN(Netns host, Netns::open(options_.proc + "/1/ns/net"));
    rules_ = std::make_unique<redirection::HostProbes>(std::make_shared<const Netns>(std::move(host)));
  }
  ZT_ASSIGN(kubelets_, kubelet_users(options_.proc));
  return rules_->apply(*pods_, kubelets_);
}

}  // namespace zt::agent
