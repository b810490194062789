#include <algorithm>

#include "base/json_writer.h"
#include "mesh/reason.h"
#include "ztunnel/explain/explain.h"

namespace zt::ztunnel {

using workload_api::PolicyAction;

namespace {

class Json {
 public:
  explicit Json(std::string& out) : json_(out) {}

  void all(const KnownState& state, const Question& question, const Explanation& explanation) {
    json_.begin_object();
    json_.member("state", state.origin);
    from(*question.source);
    json_.key("to");
    json_.begin_object();
    json_.member("asked", question.asked);
    json_.member("address", question.destination.to_string());
    json_.member("is", explanation.destination);
    json_.end_object();
    routes(explanation);
    json_.end_object();
  }

 private:
  void from(const workload_api::Workload& source) {
    json_.key("from");
    json_.begin_object();
    json_.member("workload", source.uid.view());
    json_.member("identity", source.identity.view());
    json_.end_object();
  }

  void routes(const Explanation& explanation) {
    json_.member("connections", uint64_t{explanation.turns});
    json_.key("routes");
    json_.begin_array();
    for (const Way& one : explanation.ways) way(one);
    json_.end_array();
  }

  void way(const Way& way) {
    json_.begin_object();
    json_.member("connections", uint64_t{way.turns});
    std::visit([this](const auto& route) { of(route); }, way.route);
    if (way.arrival) arrival(*way.arrival);
    if (!way.beyond.empty()) json_.member("note", way.beyond);
    if (way.onward) {
      json_.key("onward");
      json_.begin_object();
      from(*way.onward->source);
      routes(*way.onward);
      json_.end_object();
    }
    json_.end_object();
  }

  void of(const Deny& deny) {
    json_.member("route", "deny");
    json_.member("reason", reason_info(deny.reason).name);
    json_.member("text", deny.text);
  }
  void of(const Plain& plain) {
    json_.member("route", "plain");
    json_.member("dial", plain.address.to_string());
    to(plain.to);
  }
  void of(const Hbone& hbone) {
    json_.member("route", "hbone");
    json_.member("dial", hbone.dial.to_string());
    json_.member("authority", hbone.authority);
    ids("expected", hbone.expected);
    to(hbone.to);
  }
  void of(const DoubleHbone& hbone) {
    json_.member("route", "double-hbone");
    json_.member("dial", hbone.dial.to_string());
    json_.member("authority", hbone.authority);
    ids("expected", hbone.expected);
    ids("innerExpected", hbone.inner_expected);
    to(hbone.to);
  }
  void of(const NeedsResolution& pending) {
    json_.member("route", "resolve");
    json_.member("hostname", pending.hostname.view());
    json_.key("then");
    json_.begin_object();
    std::visit([this](const auto& then) { of(then); }, pending.then);
    json_.end_object();
  }
  void ids(const char* name, const std::vector<identity::SpiffeId>& list) {
    json_.key(name);
    json_.begin_array();
    for (const auto& id : list) json_.string(id.to_string());
    json_.end_array();
  }
  void to(const Destination& destination) {
    if (destination.workload) json_.member("workload", destination.workload->uid.view());
    if (destination.service) json_.member("service", destination.service->key.view());
  }

  void arrival(const Arriving& arriving) {
    json_.key("arrival");
    json_.begin_object();
    if (!arriving.target) {
      json_.member("decision", "refused");
      json_.member("reason", reason_info(arriving.target.error().reason).name);
      json_.member("text", arriving.target.error().text);
    } else {
      const Verdict& verdict = *arriving.verdict;
      json_.member("target", arriving.target->upstream.to_string());
      json_.member("decision", verdict.allowed()                                       ? "allow"
                               : verdict.decision == Verdict::Decision::kUnknownPolicy ? "unknown-policy"
                                                                                       : "deny");
      if (!verdict.text.empty()) json_.member("text", verdict.text);
      if (!verdict.policy.empty()) json_.member("policy", verdict.policy.view());
      json_.key("policies");
      json_.begin_array();
      for (const PolicyLine& one : arriving.policies) policy(one);
      json_.end_array();
    }
    json_.end_object();
  }

  void policy(const PolicyLine& policy) {
    json_.begin_object();
    json_.member("name", policy.name);
    json_.member("applies", policy.applies);
    json_.member("delivered", policy.spec != nullptr);
    if (policy.spec != nullptr) {
      json_.member("action", policy.spec->action == PolicyAction::kDeny ? "Deny" : "Allow");
      json_.member("dryRun", policy.spec->dry_run);
      json_.member("matches", policy.reason.matches);
      json_.member("decides", policy.decides);
      if (policy.reason.rule) json_.member("rule", uint64_t{*policy.reason.rule});
      json_.key("misses");
      json_.begin_array();
      for (size_t r = 0; r < policy.reason.rules.size(); ++r) misses(r, policy.reason.rules[r]);
      json_.end_array();
    }
    json_.end_object();
  }

  void misses(size_t index, const RuleReason& rule) {
    for (const MatchMiss& miss : rule.misses) {
      json_.begin_object();
      json_.member("rule", uint64_t{index});
      json_.member("clause", uint64_t{rule.clause});
      json_.member("match", uint64_t{miss.match});
      json_.key("fields");
      json_.begin_array();
      for (const FieldMiss& field : miss.fields) {
        json_.begin_object();
        json_.member("field", field.field);
        json_.member("is", field.is);
        json_.member("wanted", field.wanted);
        json_.end_object();
      }
      json_.end_array();
      json_.end_object();
    }
  }

  JsonWriter json_;
};

}  // namespace

std::string explanation_json(const KnownState& state, const Question& question, const Explanation& explanation) {
  std::string out;
  Json(out).all(state, question, explanation);
  return out + "\n";
}

}  // namespace zt::ztunnel
