#include "workload_api/model/sanity.h"

#include <fmt/format.h>

#include <utility>

#include "mesh/spiffe.h"

namespace zt::workload_api {
namespace {

// Null if some peer's principal could match.
const char* principal_fault(const StringMatch& match) {
  const std::string_view text = match.value.view();
  if (text.find('*') != std::string_view::npos) return "a \"*\" stands for itself here: write Presence, Prefix or Suffix";
  switch (match.kind) {
    case StringMatch::Kind::kPresence: return nullptr;
    case StringMatch::Kind::kSuffix:
      return text.find(kSpiffeScheme) != std::string_view::npos ? "a principal has no \"spiffe://\" in it" : nullptr;
    case StringMatch::Kind::kPrefix:
      return text.starts_with(kSpiffeScheme) ? "a principal is written without \"spiffe://\"" : nullptr;
    case StringMatch::Kind::kExact: break;
  }
  if (text.starts_with(kSpiffeScheme)) return "a principal is written without \"spiffe://\"";
  if (!SpiffeView::parse(std::string(kSpiffeScheme).append(text)))
    return "a principal is TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
  return nullptr;
}

const char* namespace_fault(const StringMatch& match) {
  const std::string_view text = match.value.view();
  if (match.kind == StringMatch::Kind::kPresence) return nullptr;
  if (text.find('*') != std::string_view::npos) return "a \"*\" stands for itself here: write Presence, Prefix or Suffix";
  return text.find('/') != std::string_view::npos ? "a namespace has no slash in it" : nullptr;
}

class Search {
 public:
  std::vector<DeadValue> run(const Authorization& policy) {
    for (size_t rule = 0; rule < policy.rules.size(); ++rule)
      for (size_t clause = 0; clause < policy.rules[rule].size(); ++clause)
        for (size_t match = 0; match < policy.rules[rule][clause].size(); ++match) {
          place_ = {rule, clause, match};
          look_at(policy.rules[rule][clause][match]);
        }
    return std::move(found_);
  }

 private:
  struct Place {
    size_t rule = 0, clause = 0, match = 0;
  };

  void look_at(const PolicyMatch& match) {
    texts("namespaces", match.namespaces, namespace_fault);
    texts("notNamespaces", match.not_namespaces, namespace_fault);
    texts("principals", match.principals, principal_fault);
    texts("notPrincipals", match.not_principals, principal_fault);
    accounts("serviceAccounts", match.service_accounts);
    accounts("notServiceAccounts", match.not_service_accounts);
  }

  template <class Fault>
  void texts(const char* field, const std::vector<StringMatch>& matches, Fault&& fault) {
    for (size_t i = 0; i < matches.size(); ++i)
      if (const char* why = fault(matches[i])) note(field, i, matches[i].value.view(), why);
  }
  void accounts(const char* field, const std::vector<ServiceAccountMatch>& matches) {
    for (size_t i = 0; i < matches.size(); ++i) {
      const char* why = identity_part_fault(matches[i].ns.view());
      if (why == nullptr) why = identity_part_fault(matches[i].service_account.view());
      if (why != nullptr) note(field, i, fmt::format("{}/{}", matches[i].ns.view(), matches[i].service_account.view()), why);
    }
  }

  void note(const char* field, size_t index, std::string_view value, const char* why) {
    found_.push_back({.field = fmt::format("rules[{}][{}][{}].{}[{}]", place_.rule, place_.clause, place_.match, field, index),
                      .value = std::string(value),
                      .why = why});
  }

  Place place_;
  std::vector<DeadValue> found_;
};

}  // namespace

void note_dead_identity(const Workload& workload, DeadIdentity& found) {
  const std::pair<const char*, const Str*> parts[] = {
      {"trust_domain", &workload.trust_domain}, {"namespace", &workload.ns}, {"service_account", &workload.service_account}};
  for (const auto& [field, text] : parts) {
    const char* why = identity_part_fault(text->view());
    if (why == nullptr) continue;
    if (++found.workloads == 1) {
      found.uid = workload.uid.view();
      found.field = field;
      found.value = text->view();
      found.why = why;
    }
    return;
  }
}

std::vector<DeadValue> dead_values(const Authorization& policy) { return Search().run(policy); }

std::optional<DeadValue> dead_value(const Authorization& policy) {
  auto all = dead_values(policy);
  if (all.empty()) return std::nullopt;
  all.front().more = all.size() - 1;
  return std::move(all.front());
}

}  // namespace zt::workload_api
