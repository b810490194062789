#include "workload_api/yaml/collector.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "workload_api/yaml/yaml_mesh.h"
#include "workload_api/yaml/yaml_policy.h"

namespace zt::workload_api {
namespace {

using yaml::Value;

// Two resources of one name: the second is the mistake.
void once(decltype(LocalNames::addresses)& names, const Str& name, const Value& item) {
  if (!names.insert(name).second) item.refuse(fmt::format("\"{}\" is there twice", name.view()));
}

}  // namespace

Collector::Collector(const Snapshot* present) : present_(present) {
  if (present_ != nullptr) content_.compared_with = present_->generation();
}

void Collector::read(yaml::Reader& reader) {
  std::array<yaml::Reader::Section, kLocalListKeys.size()> sections;
  for (size_t i = 0; i < sections.size(); ++i) {
    const auto list = static_cast<LocalList>(i);
    sections[i] = {.key = kLocalListKeys[i],
                   .item = [this, list](const Value& value) { item(list, value); },
                   .begins = [this, list](const Value& key) { begin(list, key); }};
  }
  // Most likely a file that somebody is about to fill: taking it for an empty mesh would drop everything.
  reader.sections(sections, "nothing in it (an empty configuration is written {})");
}

void Collector::begin(LocalList list, const Value& key) {
  outline_.lists.push_back({list, key.mark().line, key.mark().column == 1, {}});
}

void Collector::item(LocalList list, const Value& item) {
  switch (list) {
    case LocalList::kWorkloads: outline_.names.push_back(workload(item)); break;
    case LocalList::kServices: outline_.names.push_back(service(item)); break;
    case LocalList::kPolicies: outline_.names.push_back(policy(item)); break;
  }
  outline_.lists.back().item_lines.push_back(item.mark().line);
}

Str Collector::workload(const Value& item) {
  Ref<Workload> made = read_workload(item, texts_);
  canonicalize(*made);
  const Workload* known = present_ != nullptr ? present_->workload(made->uid.view()) : nullptr;
  Str name = known != nullptr ? known->uid : made->uid;
  once(names_.addresses, name, item);
  if (known != nullptr) {
    made->identity = known->identity;  // follows from the rest
    if (*made == *known) {
      content_.same_workloads.emplace_back(known);
      return name;
    }
    made->identity = {};
  }
  content_.batch.workloads.push_back(std::move(made));
  return name;
}

Str Collector::service(const Value& item) {
  Ref<Service> made = read_service(item, texts_);
  made->key = NamespacedHostname{made->ns, made->hostname}.to_string();
  const ServiceEntry* entry = present_ != nullptr ? present_->service(made->key.view()) : nullptr;
  Str name = entry != nullptr ? entry->service().key : made->key;
  once(names_.addresses, name, item);
  if (entry != nullptr && *made == entry->service()) {
    content_.same_services.push_back(entry->service_ptr());
  } else {
    content_.batch.services.push_back(std::move(made));
  }
  return name;
}

Str Collector::policy(const Value& item) {
  Ref<Authorization> made = read_policy(item);
  const Policy* known = present_ != nullptr ? present_->policy(made->key.view()) : nullptr;
  Str name = known != nullptr ? known->spec->key : made->key;
  once(names_.policies, name, item);
  if (known != nullptr && *made == *known->spec) {
    content_.same_policies.push_back(known->spec);
  } else {
    content_.batch.policies.push_back(std::move(made));
  }
  return name;
}

LocalContent Collector::take() {
  content_.names = std::move(names_);
  return std::move(content_);
}

}  // namespace zt::workload_api
