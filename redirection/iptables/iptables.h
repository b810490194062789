#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "redirection/iptables/iptables_rules.h"
#include "redirection/redirector.h"

namespace zt::redirection {

// Redirection by iptables in the pod's own namespace: iptables-restore and -save of one of the two variants, "legacy"
// or "nft". It is run with the pod's namespace as its lock, so that nobody else on the node is waited for.
class IptablesRedirector final : public Redirector {
 public:
  // `forced`: "legacy", "nft", or "" to find out (istio-cni's FORCE_IPTABLES_BINARY). Found out once, in the namespace that this is
  // called in: legacy if its tables hold rules other than ours, else nft, else the one that works.
  explicit IptablesRedirector(std::string forced = {}) : forced_(std::move(forced)) {}

  [[nodiscard]] std::string_view name() const override { return "iptables"; }
  Result<> probe() override;
  Result<> enroll(const RedirectedPod& pod) override;
  Result<> stop_capturing(const RedirectedPod& pod) override;
  Result<size_t> carried_connections(const RedirectedPod& pod) override;
  Result<> unenroll(const RedirectedPod& pod) override;
  Result<Deviations> verify(const RedirectedPod& pod) override;
  Result<Presence> presence(const RedirectedPod& pod) override;
  Result<> make_way(const RedirectedPod& pod) override;

 private:
  enum class Variant : uint8_t { kLegacy, kNft };
  // Our rules of one variant by family, IPv4 first. A family without the programs or the modules has none.
  using Listing = std::array<IptablesRules, 2>;

  static constexpr std::string_view suffix(Variant variant) { return variant == Variant::kLegacy ? "legacy" : "nft"; }
  static std::string program(bool v6, Variant variant, std::string_view what);
  static Result<IptablesRules> save(bool v6, Variant variant);
  static Result<> restore(bool v6, Variant variant, const std::string& text);
  static Result<Listing> list(Variant variant);
  static bool is_used_by_others(Variant variant);
  static Result<> apply(Variant variant, const RedirectionOptions& options);
  static Result<> remove(Variant variant);

  Result<Variant> variant();
  // What apply() makes of the options, learnt once for each in a scratch namespace.
  Result<const Listing*> reference(Variant variant, const RedirectionOptions& options);

  std::string forced_;
  std::optional<Variant> chosen_;
  std::vector<std::pair<RedirectionOptions, Listing>> references_;  // of chosen_
};

}  // namespace zt::redirection
