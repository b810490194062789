#include "ztunnel/explain/check.h"

#include <unistd.h>
#include <catch2/catch.hpp>

#include <string>

#include "base/file.h"
#include "base/json_writer.h"
#include "workload_api/yaml/yaml_source.h"
#include "ztunnel/explain/command.h"

namespace zt::ztunnel {
namespace {

// In a file of its own that goes with the test.
class Checked {
 public:
  explicit Checked(std::string_view text) : path_("/tmp/zt-check-" + std::to_string(getpid()) + ".yaml") {
    REQUIRE(replace_file(path_, text, 0600));
    auto file = check_file(path_);
    REQUIRE(file);
    file_ = std::move(*file);
    text_ = checked_text(path_, file_);
  }
  ~Checked() { unlink(path_.c_str()); }
  [[nodiscard]] const CheckedFile& file() const { return file_; }
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  // "LINE: kind: …text…" is said.
  [[nodiscard]] bool says(uint32_t line, Finding::Kind kind, std::string_view part) const {
    for (const Finding& finding : file_.findings)
      if (finding.mark.line == line && finding.kind == kind && finding.text.find(part) != std::string::npos) return true;
    return false;
  }

 private:
  std::string path_, text_;
  CheckedFile file_;
};

TEST_CASE("every mistake of a local file is said once, with its line") {
  const Checked checked(R"(workloads:
- name: a
  namespace: shop
  workloadIps: [10.0.0.300]
  protocol: SMTP
  halo: 1
  waypoint: {destination: nowhere, hboneMtlsPort: 70000}
- name: b
  namespace: shop
  workloadIps: [10.0.0.2]
  name: c
- name: d
  namespace: shop
  workloadIps: [10.0.0.4]
- namespace: shop
  workloadIps: []
- name: d
  namespace: shop
  workloadIps: [10.0.0.5]
services:
- namespace: shop
  ports: {80: eighty, 90: 9x}
policies:
- name: p
  namespace: shop
  scope: Everywhere
  action: Perhaps
  rules: [[[{ports: [1]}, {destinationPorts: [x]}]]]
extras: 1
)");
  INFO(checked.text());
  const auto mistake = Finding::Kind::kMistake;
  CHECK(checked.says(4, mistake, "\"10.0.0.300\" is not an IP address"));
  CHECK(checked.says(5, mistake, "\"SMTP\" is not one of HBONE, TCP"));
  CHECK(checked.says(6, mistake, "unknown key"));
  CHECK(checked.says(7, mistake, "\"nowhere\" is neither"));
  CHECK(checked.says(7, mistake, "\"70000\" is not a number"));
  CHECK(checked.says(11, mistake, "the key is there twice"));
  CHECK(checked.says(15, mistake, "needs a uid or a name"));
  CHECK(checked.says(17, mistake, "is there twice (first in line 12)"));
  CHECK(checked.says(21, mistake, "\"hostname\" is missing"));
  CHECK(checked.says(22, mistake, "\"eighty\" is not a number"));
  CHECK(checked.says(22, mistake, "\"9x\" is not a number"));
  CHECK(checked.says(26, mistake, "\"Everywhere\" is not one of"));
  CHECK(checked.says(27, mistake, "\"Perhaps\" is not one of"));
  CHECK(checked.says(28, mistake, "unknown key"));
  CHECK(checked.says(28, mistake, "\"x\" is not a number"));
  CHECK(checked.says(29, mistake, "unknown key (known here: workloads, services, policies)"));
  CHECK(checked.file().mistakes() == 16);
}

TEST_CASE("the proxy takes a local file exactly if no mistake is found in it") {
  for (const std::string_view text :
       {"{}", "workloads: []", "workloads:\n- {name: a, namespace: b, workloadIps: [10.0.0.1]}\n", "", "[]", "workloads: 1",
        "policies: null", "services:\n- {namespace: a, hostname: b, endpoints: {x: {}}}\n", "workloads:\n- 1\n", "workloads: [\n",
        "a: &a [*a]\n", "workloads: []\nworkloads: []\n"}) {
    const Checked checked(text);
    CAPTURE(text, checked.text());
    CHECK((checked.file().mistakes() == 0) == workload_api::parse_local_config(text, "x").has_value());
  }
}

TEST_CASE("what can never match, be found or be chosen is warned of with its line") {
  const Checked checked(R"(workloads:
- name: a
  namespace: shop
  workloadIps: [10.0.0.1]
  authorizationPolicies: [shop/p, shop/none]
  services:
    shop/web: {81: 8081}
    shop/gone: {80: 80}
  waypoint: {destination: gw/nobody}
- name: b
  namespace: shop
  workloadIps: [10.0.0.1]
services:
- {namespace: shop, hostname: web, vips: [/10.1.0.1], ports: {80: 0}}
- namespace: shop
  hostname: empty
  vips: [/10.1.0.2]
  ports: {80: 80}
policies:
- {name: p, namespace: shop, scope: WorkloadSelector, action: Deny, rules: []}
- name: q
  namespace: nobody
  scope: Namespace
  action: Allow
  rules:
  - - - {principals: [{Exact: "spiffe://td/ns/a/sa/b"}]}
      - {}
      - {destinationPorts: [80], notDestinationPorts: [80, 81]}
  - - - {namespaces: [{Exact: a*}], notSourceIps: [10.0.0.0/8]}
- {name: r, namespace: shop, scope: WorkloadSelector, action: Allow, rules: [[[{sourceIps: [10.1.0.0/16], notSourceIps: [10.0.0.0/8]}]]]}
)");
  INFO(checked.text());
  const auto warning = Finding::Kind::kWarning;
  CHECK(checked.file().mistakes() == 0);
  CHECK(checked.says(5, warning, "no policy is called \"shop/none\""));
  CHECK(checked.says(7, warning, "service \"shop/web\" has no port 81"));
  CHECK(checked.says(7, warning, "no service is \"shop/gone\""));
  CHECK(checked.says(9, warning, "\"gw/nobody\" leads nowhere"));
  CHECK(checked.says(4, warning, "10.0.0.1 counts as local//shop/b's"));
  CHECK(checked.says(14, warning, "the target of port 80 is named"));
  CHECK(checked.says(15, warning, "no workload serves it"));
  CHECK(checked.says(20, warning, "a DENY without rules never matches"));
  CHECK(checked.says(21, warning, "no workload in its namespace"));
  CHECK(checked.says(26, warning, "a principal is written without \"spiffe://\""));
  CHECK(checked.says(27, warning, "rules[0][0][1] is empty"));
  CHECK(checked.says(28, warning, "destinationPorts: all of it is excepted"));
  CHECK(checked.says(29, warning, "a \"*\" stands for itself"));
  CHECK(checked.says(30, warning, "no workload names it"));
  CHECK(checked.says(30, warning, "sourceIps: all of it is excepted"));
}

TEST_CASE("of a pods file each bad entry is said with its line") {
  const Checked checked(
      "pods:\n- {uid: a, name: web, namespace: shop, serviceAccount: web, netns: /run/netns/web}\n"
      "- {uid: b, name: Web, namespace: shop, serviceAccount: web, netns: /run/netns/b}\n"
      "- {uid: a, name: web, namespace: shop, serviceAccount: web, netns: run/b}\n");
  INFO(checked.text());
  CHECK(checked.file().what == CheckedFile::What::kPods);
  CHECK(checked.file().pods == 1);
  CHECK(checked.says(3, Finding::Kind::kMistake, "name 'Web' must have"));
  CHECK(checked.says(4, Finding::Kind::kMistake, "must be an absolute path"));
}

TEST_CASE("the commands answer with an exit code, text or JSON, and refuse what they do not know") {
  const Checked good("workloads:\n- {name: a, namespace: b, workloadIps: [10.0.0.1]}\n");
  const auto run = [](auto command, std::vector<const char*> words) {
    words.insert(words.begin(), {"ztunnel", "x"});
    return command(static_cast<int>(words.size()), words.data());
  };
  CHECK(run(run_check_config, {good.path().c_str()}).exit_code == 0);
  CHECK(validate_json(run(run_check_config, {good.path().c_str(), "-o", "json"}).out));
  CHECK(run(run_check_config, {"/nowhere"}).exit_code == 1);
  CHECK(run(run_check_config, {}).exit_code == 1);
  CHECK(run(run_check_config, {"--help"}).exit_code == 0);
  const auto explained = run(run_explain, {"b/a", "192.0.2.1:1", "-f", good.path().c_str(), "-o", "json"});
  CHECK(explained.exit_code == 0);
  CHECK(validate_json(explained.out));
  CHECK(run(run_explain, {"b/a", "192.0.2.1:1", "-f", "x", "-d", "y"}).exit_code == 1);
  CHECK(run(run_explain, {"b/a", "192.0.2.1:1", "-o", "xml"}).exit_code == 1);
  CHECK(run(run_explain, {"b/nobody", "192.0.2.1:1", "-f", good.path().c_str()}).exit_code == 1);
  const auto nobody = run(run_explain, {"b/a", "192.0.2.1:1", "-a", "127.0.0.1:1"});
  CHECK(nobody.exit_code == 1);
  CHECK(nobody.errors.find("no config_dump from 127.0.0.1:1") != std::string::npos);
}

}  // namespace
}  // namespace zt::ztunnel
