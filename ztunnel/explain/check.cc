#include "ztunnel/explain/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "agent/pods/pods_file.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "base/text.h"
#include "base/yaml/reader.h"
#include "mesh/reason.h"
#include "workload_api/store/store.h"
#include "workload_api/yaml/outline.h"
#include "workload_api/yaml/yaml_mesh.h"
#include "workload_api/yaml/yaml_policy.h"
#include "ztunnel/explain/going_on.h"
#include "ztunnel/explain/warnings.h"

namespace zt::ztunnel {

using workload_api::Batch;
using workload_api::Store;
using yaml::Value;

namespace {

// As the proxy's, but for what is held: all of it.
constexpr yaml::Limits kLimits{.held = yaml::Limits{}.values};

class MeshCheck {
 public:
  explicit MeshCheck(CheckedFile& file) : file_(file) {}

  void run(const Value& root) {
    root.each_pair([&](const Value& key, const Value& list) { section(root, key, list); });
    file_.workloads = batch_.workloads.size();
    file_.services = batch_.services.size();
    file_.policies = batch_.policies.size();
    Store store({});
    for (auto& rejected : store.apply(std::move(batch_)))
      mistake(places_.find(rejected.name), fmt::format("{}: {}", rejected.name, rejected.why));
    find_warnings(*store.snapshot(), places_, [&](const yaml::Mark& mark, std::string text) {
      file_.findings.push_back({Finding::Kind::kWarning, mark, std::move(text)});
    });
  }

 private:
  void section(const Value& root, const Value& key, const Value& list) {
    using workload_api::kLocalListKeys;
    const auto known = std::ranges::find(kLocalListKeys, key.text());
    if (known == kLocalListKeys.end()) {
      read([&] { key.refuse(fmt::format("unknown key (known here: {})", fmt::join(kLocalListKeys, ", "))); });
      return;
    }
    if (list.is_null()) return;
    const Value named(list.node(), root, key.text());
    read([&] {
      named.each([&](const Value& item) {
        switch (static_cast<workload_api::LocalList>(known - kLocalListKeys.begin())) {
          case workload_api::LocalList::kWorkloads: {
            one(item, batch_.workloads, [&] {
              auto made = workload_api::read_workload(item, texts_);
              canonicalize(*made);
              return made;
            });
            break;
          }
          case workload_api::LocalList::kServices: {
            one(item, batch_.services, [&] {
              auto made = workload_api::read_service(item, texts_);
              made->key = workload_api::NamespacedHostname{made->ns, made->hostname}.to_string();
              return made;
            });
            break;
          }
          case workload_api::LocalList::kPolicies: {
            one(item, batch_.policies, [&] { return workload_api::read_policy(item); });
            break;
          }
        }
      });
    });
  }

  static std::string name_of(const workload_api::Workload& workload) { return workload.uid.str(); }
  static std::string name_of(const workload_api::Service& service) { return service.key.str(); }
  static std::string name_of(const workload_api::Authorization& policy) { return "policy " + policy.key.str(); }

  template <class T, class Make>
  void one(const Value& item, std::vector<T>& into, const Make& make) {
    T made;
    const auto said = [this](const yaml::Refusal& refusal) { mistake(refusal.mark, refusal.text); };
    const size_t before = file_.findings.size();
    if (!read_going_on(item, [&] { made = make(); }, said)) return;
    if (file_.findings.size() != before) places_.set_faulty(name_of(*made));
    if (!places_.add(name_of(*made), item.node())) {
      mistake(item.mark(), fmt::format("{}: \"{}\" is there twice (first in line {})", item.path(), name_of(*made),
                                       places_.find(name_of(*made)).line));
      return;
    }
    into.push_back(std::move(made));
  }

  template <class Read>
  void read(Read&& read) {
    try {
      read();
    } catch (const yaml::Refusal& refusal) {
      mistake(refusal.mark, refusal.text);
    }
  }
  void mistake(yaml::Mark mark, std::string text) { file_.findings.push_back({Finding::Kind::kMistake, mark, std::move(text)}); }

  CheckedFile& file_;
  Batch batch_;
  workload_api::Interner texts_;
  Places places_;
};

// "name:line:column: text", as the agent says it.
Finding finding_of(std::string_view name, std::string_view said) {
  Finding finding{.kind = Finding::Kind::kMistake, .mark = {}, .text = std::string(said)};
  if (!said.starts_with(name)) return finding;
  std::string_view rest = said.substr(name.size());
  for (uint32_t* number : {&finding.mark.line, &finding.mark.column}) {
    if (!rest.starts_with(':')) return finding;
    rest.remove_prefix(1);
    const size_t end = rest.find(':');
    const auto value = whole_number<uint32_t>(rest.substr(0, end));
    if (end == std::string_view::npos || !value) return finding;
    *number = *value;
    rest.remove_prefix(end);
  }
  finding.text = trim(rest.substr(1));
  return finding;
}

void check_pods(std::string_view text, const std::string& path, CheckedFile& file) {
  file.what = CheckedFile::What::kPods;
  const auto pods = agent::parse_pods(text, path, {});
  if (!pods) {
    file.findings.push_back(finding_of(path, pods.error().text));
    return;
  }
  file.pods = pods->pods.size();
  for (const auto& bad : pods->bad) file.findings.push_back(finding_of(path, bad.text));
}

bool is_pods_file(const Value& root) {
  if (!root.is_map()) return false;
  for (const yaml::Node* key = root.node().first; key != nullptr; key = key->next->next)
    if (key->text == "pods") return true;
  return false;
}

}  // namespace

size_t CheckedFile::mistakes() const {
  return static_cast<size_t>(std::ranges::count(findings, Finding::Kind::kMistake, &Finding::kind));
}

Result<CheckedFile> check_file(const std::string& path) {
  ZT_ASSIGN(const std::string text, read_file(path, kLimits.bytes));
  CheckedFile file;
  try {
    yaml::TextSource source(text);
    yaml::Reader reader(source, kLimits);
    const Value root = reader.whole();
    if (root.is_null()) root.refuse("nothing in it (an empty configuration is written {})");
    if (is_pods_file(root)) {
      check_pods(text, path, file);
    } else {
      MeshCheck(file).run(root);
    }
  } catch (const yaml::Refusal& refusal) {
    file.findings.push_back({Finding::Kind::kMistake, refusal.mark, refusal.text});
  } catch (Error& error) {
    return std::unexpected(std::move(error));
  }
  std::ranges::sort(file.findings, {}, [](const Finding& finding) {
    return std::tuple(finding.mark.line, finding.mark.column, std::string_view(finding.text));
  });
  return file;
}

std::string checked_text(const std::string& path, const CheckedFile& file) {
  std::string out;
  for (const Finding& finding : file.findings)
    out += fmt::format("{}:{}:{}: {}: {}\n", path, finding.mark.line, finding.mark.column,
                       finding.kind == Finding::Kind::kMistake ? "mistake" : "warning", finding.text);
  const size_t mistakes = file.mistakes();
  const std::string what = file.what == CheckedFile::What::kPods ? fmt::format("{} pods", file.pods)
                                                                 : fmt::format("{} workloads, {} services, {} policies",
                                                                               file.workloads, file.services, file.policies);
  out += fmt::format("{}: {}, {} mistakes, {} warnings\n", path, what, mistakes, file.findings.size() - mistakes);
  return out;
}

std::string checked_json(const std::string& path, const CheckedFile& file) {
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.member("file", path);
  json.member("kind", file.what == CheckedFile::What::kPods ? "pods" : "mesh");
  json.member("mistakes", uint64_t{file.mistakes()});
  json.key("findings");
  json.begin_array();
  for (const Finding& finding : file.findings) {
    json.begin_object();
    json.member("kind", finding.kind == Finding::Kind::kMistake ? "mistake" : "warning");
    json.member("line", finding.mark.line);
    json.member("column", finding.mark.column);
    json.member("text", finding.text);
    json.end_object();
  }
  json.end_array();
  json.end_object();
  return out + "\n";
}

}  // namespace zt::ztunnel
