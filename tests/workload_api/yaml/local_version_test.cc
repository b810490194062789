#include "workload_api/yaml/local_version.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/workload_api/mesh.h"

namespace zt::workload_api {
namespace {

class File {
 public:
  File() {
    char name[] = "/tmp/zt-local-version-XXXXXX";
    const int fd = ::mkstemp(name);
    REQUIRE(fd >= 0);
    ::close(fd);
    path_ = name;
  }
  ~File() { std::filesystem::remove(path_); }
  void write(std::string_view text) const { std::ofstream(path_, std::ios::binary) << text; }
  [[nodiscard]] const std::string& path() const { return path_; }

  // Cut however small.
  [[nodiscard]] Result<LocalVersion> read(const SnapshotPtr& present = nullptr,
                                          std::shared_ptr<const Pieces> before = nullptr) const {
    return read_local_version(path_, {.present = present, .before = std::move(before), .stop = {}, .worth_cutting = 0});
  }

 private:
  std::string path_;
};

// A store that follows a file as LocalFile makes it.
struct Follower {
  Store store{{.node_name = "n1"}};
  std::shared_ptr<const Pieces> pieces;

  Result<LocalContent::Counts> follow(const File& file, bool* edit = nullptr) {
    auto version = file.read(store.snapshot(), pieces);
    if (!version) return std::unexpected(version.error());
    if (edit != nullptr) *edit = version->content.edit;
    const LocalContent::Counts counts{version->content.workloads(), version->content.services(), version->content.policies()};
    pieces = std::move(version->pieces);
    REQUIRE(store.replace_local(std::move(version->content)).empty());
    return counts;
  }
};

std::multiset<std::string> endpoints_of(std::span<const Endpoint> endpoints) {
  std::multiset<std::string> shown;
  for (const Endpoint& endpoint : endpoints) {
    std::string ports;
    for (size_t i = 0; i < endpoint.ports.size(); ++i)
      ports += fmt::format(" {}:{}", endpoint.ports[i].first, endpoint.ports[i].second);
    shown.insert(endpoint.workload->uid.str() + ports);
  }
  return shown;
}

void require_same(const Snapshot& a, const Snapshot& b) {
  REQUIRE(a.workload_count() == b.workload_count());
  REQUIRE(a.service_count() == b.service_count());
  REQUIRE(a.policy_count() == b.policy_count());
  a.for_each_workload([&](const Workload& workload) {
    const Workload* other = b.workload(workload.uid.view());
    REQUIRE(other != nullptr);
    REQUIRE(*other == workload);
    for (const IpAddress& address : workload.addresses)
      REQUIRE(uid_of(a.workload(workload.network.view(), address)) == uid_of(b.workload(workload.network.view(), address)));
    REQUIRE(uid_of(a.local_workload(WorkloadByPodName::key(workload))) ==
            uid_of(b.local_workload(WorkloadByPodName::key(workload))));
  });
  a.for_each_service([&](const ServiceEntry& entry) {
    const ServiceEntry* other = b.service(entry.service().key.view());
    REQUIRE(other != nullptr);
    REQUIRE(other->service() == entry.service());
    REQUIRE(endpoints_of(other->endpoints()) == endpoints_of(entry.endpoints()));
  });
  const auto staged = [](const Snapshot& snapshot) {
    std::set<std::string> shown;
    snapshot.for_each_staged_service([&](const StagedService& service) {
      for (const auto& endpoint : endpoints_of(service.endpoints)) shown.insert(service.key.str() + " " + endpoint);
    });
    return shown;
  };
  REQUIRE(staged(a) == staged(b));
  a.for_each_policy([&](const Policy& policy) {
    const Policy* other = b.policy(policy.spec->key.view());
    REQUIRE(other != nullptr);
    REQUIRE(*other->spec == *policy.spec);
  });
}

// A file that people and programs wrote: every style that one list can have, and some text that looks like another item's begin.
class Mesh {
 public:
  explicit Mesh(uint32_t seed) : random_(seed), indent_(any(3), ' ') {}

  std::string text() {
    std::vector<std::string> lists{"workloads:\n", "services:\n", "policies:\n"};
    for (unsigned i = 0, n = 40 + any(60); i < n; ++i) lists[0] += workload();
    for (unsigned i = 0, n = any(40); i < n; ++i) lists[1] += service();
    for (unsigned i = 0, n = any(20); i < n; ++i) lists[2] += policy();
    if (any(3) == 0) lists[2] = "policies: []\n";
    std::ranges::shuffle(lists, random_);
    return (any(2) ? "# a mesh\n" : "") + lists[0] + (any(2) ? "\n# and\n" : "") + lists[1] + lists[2];
  }

  // What somebody may do to it, sense or not.
  std::string edited(std::string text) {
    std::vector<std::string> lines;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      lines.push_back(text.substr(at, end - at));
      at = end;
    }
    const auto place = [&] { return lines.begin() + any(static_cast<unsigned>(lines.size())); };
    // Places where an item begins, for edits that leave sense.
    std::vector<size_t> items;
    for (size_t i = 0; i < lines.size(); ++i)
      if (lines[i].starts_with(indent_ + "- ") && lines[i].find(": ") != std::string::npos) items.push_back(i);
    const auto item = [&] {
      return items.empty() ? lines.begin()
                           : lines.begin() + static_cast<ptrdiff_t>(items[any(static_cast<unsigned>(items.size()))]);
    };
    switch (any(12)) {
      case 0: lines.erase(place()); break;
      case 1: lines.insert(place(), *place()); break;
      case 2: place()->insert(0, std::string(1, "#\"'-:[]{}& *!%|"[any(15)])); break;
      case 3: {
        std::string& line = *place();
        line.insert(any(static_cast<unsigned>(line.size())), std::string(1, "a\"'-: \n#&"[any(9)]));
        break;
      }
      case 4: lines.push_back(any(2) ? workload() : service()); break;
      case 5:
      case 6:
      case 7: lines.insert(item(), any(4) ? workload() : any(2) ? service() : policy()); break;
      case 8: {  // an item and what follows of it
        const auto from = item();
        auto to = std::next(from);
        while (to != lines.end() && to->starts_with(indent_ + "  ")) ++to;
        lines.erase(from, to);
        break;
      }
      case 9: std::swap(*place(), *place()); break;
      case 10:
      case 11: {  // a word
        std::string& line = *place();
        if (const size_t node = line.find("node: "); node != std::string::npos) line.replace(node, 7, "node: x");
        break;
      }
      default: break;
    }
    std::string joined;
    for (const std::string& line : lines) joined += line;
    return joined.empty() ? "{}" : joined;
  }

 private:
  unsigned any(unsigned below) { return static_cast<unsigned>(random_() % std::max(below, 1u)); }

  std::string workload() {
    const unsigned i = any(20) == 0 ? any(1000) : number_++;  // now and then one that may be there
    const std::string services = any(3) == 0 ? "{}" : fmt::format("{{s{0}/h{0}: {{80: {1}}}}}", any(8), 1 + any(9000));
    if (any(3) == 0)
      return fmt::format(
          "{0}- {{uid: w{1}, name: n{1}, namespace: s{2}, workloadIps: [10.{3}.{4}.1], node: n{5}, services: {6}}}\n", indent_, i,
          any(8), i / 250, i % 250, any(3), services);
    std::string text =
        fmt::format("{0}- uid: w{1}\n{0}  name: n{1}\n{0}  namespace: s{2}\n{0}  node: n{3}\n", indent_, i, any(8), any(3));
    switch (any(8)) {
      case 0: text += indent_ + "  canonicalName: \"one\n- uid: two\n\n  three\"\n"; break;
      case 1: text += indent_ + "  canonicalName: |\n" + indent_ + "    one\n" + indent_ + "    - uid: two\n"; break;
      case 2: text += indent_ + "  # - uid: comment\n\n"; break;
      case 3: text += indent_ + "  canonicalName: one\n" + indent_ + "    - two\n"; break;
      default: break;
    }
    return text + fmt::format("{0}  workloadIps: [10.{1}.{2}.1]\n{0}  services: {3}\n", indent_, i / 250, i % 250, services);
  }
  std::string service() {
    const unsigned i = any(20) == 0 ? any(20) : services_++;
    return any(2) ? fmt::format("{}- {{hostname: h{}, namespace: s{}, ports: {{80: {}}}}}\n", indent_, i, i, 1 + any(9))
                  : fmt::format("{0}- namespace: s{1}\n{0}  hostname: h{1}\n{0}  vips:\n{0}  - /10.96.{2}.{3}\n", indent_, i,
                                i / 250, i % 250);
  }
  std::string policy() {
    const unsigned i = any(1000);
    return fmt::format("{0}- name: p{1}\n{0}  namespace: s{2}\n{0}  scope: Global\n{0}  action: Deny\n{0}  rules: []\n", indent_,
                       i, i % 8);
  }

  std::mt19937 random_;
  std::string indent_;
  unsigned number_ = 0, services_ = 0;
};

std::string numbered(unsigned items, const std::function<std::string(unsigned)>& item, std::string_view key = "workloads") {
  std::string text = std::string(key) + ":\n";
  for (unsigned i = 0; i < items; ++i) text += item(i);
  return text;
}
std::string plain(unsigned i) {
  return fmt::format("- uid: w{0}\n  namespace: shop\n  workloadIps: [10.0.{1}.{2}]\n", i, i / 250, i % 250);
}

}  // namespace

TEST_CASE("Whatever is done to the local file, following its edits gives what reading it anew gives") {
  const File file;
  size_t edits = 0, refusals = 0, rounds = 0;
  for (uint32_t seed = 1; seed <= 30; ++seed) {
    Mesh mesh(seed);
    Follower follower;
    std::string good = mesh.text(), text = good;
    file.write(text);
    if (!follower.follow(file)) continue;  // two items of one name
    for (int round = 0; round < 40; ++round, ++rounds) {
      // From what was refused people go on, or back.
      text = mesh.edited(round % 3 == 0 ? good : text);
      INFO("seed " << seed << ", round " << round << "\n" << text);
      file.write(text);
      bool edit = false;
      const auto followed = follower.follow(file, &edit);
      auto anew = file.read();
      REQUIRE(followed.has_value() == anew.has_value());
      if (!anew) {
        REQUIRE(followed.error().text == anew.error().text);
        ++refusals;
        continue;
      }
      good = text;
      edits += edit ? 1 : 0;
      CHECK(followed->workloads == anew->content.workloads());
      CHECK(followed->services == anew->content.services());
      CHECK(followed->policies == anew->content.policies());
      if (follower.pieces && anew->pieces) REQUIRE(follower.pieces->names() == anew->pieces->names());
      Store fresh({.node_name = "n1"});
      REQUIRE(fresh.replace_local(std::move(anew->content)).empty());
      require_same(*follower.store.snapshot(), *fresh.snapshot());
    }
    follower.store.replace_local({});
    const SnapshotPtr empty = follower.store.snapshot();
    REQUIRE(empty->workload_count() + empty->service_count() + empty->policy_count() == 0);
  }
  INFO(edits << " edits, " << refusals << " refusals of " << rounds);
  CHECK(edits > rounds / 8);  // or it proves little
  CHECK(refusals > rounds / 8);
}

TEST_CASE("Of an edited local file only what is near the edit is parsed") {
  const File file;
  Follower follower;
  const auto text = [](const std::function<std::string(unsigned)>& workload, unsigned count = 100) {
    return numbered(count, workload) +
           "# services\nservices:\n- {hostname: h, namespace: n}\n- {hostname: i, namespace: n}\npolicies: []\n";
  };
  file.write(text(plain));
  REQUIRE(follower.follow(file));
  REQUIRE(follower.pieces);
  CHECK(follower.pieces->pieces().size() ==
        7 + 4);  // 16 items each; the keys, two of which have none; the comment before is the item's
  // So many items were looked at: those that are new, and those that turned out the same.
  size_t made = 0, looked_at = 0;
  const auto edit = [&](const std::string& to) {
    file.write(to);
    const auto version = file.read(follower.store.snapshot(), follower.pieces);
    REQUIRE(version);
    REQUIRE(version->content.edit);
    made = version->content.batch.workloads.size() + version->content.batch.services.size();
    looked_at = made + follower.pieces->names().size() - (version->content.kept.workloads + version->content.kept.services);
    REQUIRE(follower.follow(file));
    Store fresh({.node_name = "n1"});
    fresh.replace_local(file.read()->content);
    require_same(*follower.store.snapshot(), *fresh.snapshot());
  };
  const auto changed = [](unsigned which) {
    return [which](unsigned i) { return plain(i) + (i == which ? "  node: other\n" : ""); };
  };
  SECTION("an item in the middle") { edit(text(changed(50))); }
  SECTION("the first") { edit(text(changed(0))); }
  SECTION("the last") { edit(text(changed(99))); }
  SECTION("one more at the end of a list") { edit(text(plain, 101)); }
  SECTION("one in front") {
    edit(text([](unsigned i) { return (i == 0 ? "- {uid: new, namespace: shop, workloadIps: [10.9.9.9]}\n" : "") + plain(i); }));
  }
  SECTION("a list that ends the file") {
    file.write(numbered(100, plain));
    REQUIRE(follower.follow(file));
    edit(numbered(101, plain));
  }
  CHECK(made == 1);
  CHECK(looked_at <= 2);
  CHECK(follower.store.snapshot()->workload_count() >= 100);
}

TEST_CASE("Items taken out of a local file are gone without the rest being read again") {
  const File file;
  Follower follower;
  file.write(numbered(100, plain));
  REQUIRE(follower.follow(file));
  file.write(numbered(100, [](unsigned i) { return i >= 32 && i < 48 ? "" : plain(i); }));
  bool edit = false;
  REQUIRE(follower.follow(file, &edit)->workloads == 84);
  CHECK(edit);
  CHECK(follower.store.snapshot()->workload_count() == 84);
  CHECK(follower.store.snapshot()->workload("w40") == nullptr);
  file.write(numbered(100, plain));
  REQUIRE(follower.follow(file, &edit)->workloads == 100);
  CHECK(edit);
}

TEST_CASE("A wrong edit of a local file is refused with its place in the whole file") {
  const File file;
  Follower follower;
  file.write(numbered(100, plain));
  REQUIRE(follower.follow(file));
  file.write(numbered(100, [](unsigned i) { return i == 50 ? plain(i) + "  nonsense: 1\n" : plain(i); }));
  CHECK(follower.follow(file).error().text.starts_with(file.path() + ":155:3: workloads[50].nonsense: unknown key"));
  SECTION("also that a name is elsewhere in the file") {
    file.write(numbered(100, [](unsigned i) { return plain(i == 50 ? 3 : i); }));
    CHECK(follower.follow(file).error().text == file.path() + ":152:3: workloads[50]: \"w3\" is there twice");
  }
  SECTION("and what was in force before may come back") {
    file.write(numbered(100, plain));
    bool edit = false;
    const uint64_t generation = follower.store.snapshot()->generation();
    CHECK(follower.follow(file, &edit)->workloads == 100);
    CHECK(edit);
    CHECK(follower.store.snapshot()->generation() == generation);
  }
}

TEST_CASE("A local file that cannot be cut is read as a whole") {
  const File file;
  const auto cut = [&](const std::string& text) {
    file.write(text);
    const auto version = file.read();
    REQUIRE(version);
    CHECK(version->content.workloads() > 0);
    return version->pieces != nullptr;
  };
  CHECK(cut("workloads:\n- {uid: a, namespace: n, workloadIps: []  , hostname: h}\n"));
  CHECK(cut("---\nworkloads:\n# é\n  - uid: a\n    namespace: n\n    workloadIps: [10.0.0.1]"));
  CHECK_FALSE(cut("workloads: [{uid: a, namespace: n, workloadIps: [10.0.0.1]}]\n"));
  CHECK_FALSE(cut("workloads:\n-\n  uid: a\n  namespace: n\n  workloadIps: [10.0.0.1]\n"));
  CHECK_FALSE(cut("workloads:\r\n- uid: a\r\n  namespace: n\r\n  workloadIps: [10.0.0.1]\r\n"));
  CHECK_FALSE(cut("workloads:\n# \u2028\n- uid: a\n  namespace: n\n  workloadIps: [10.0.0.1]\n"));
  CHECK_FALSE(cut("workloads:\n- &a {uid: a, namespace: n, workloadIps: [10.0.0.1]}\n"));
  CHECK_FALSE(cut("%YAML 1.1\n---\nworkloads:\n- {uid: a, namespace: n, workloadIps: [10.0.0.1]}\n"));
  CHECK_FALSE(cut(" workloads:\n - {uid: a, namespace: n, workloadIps: [10.0.0.1]}\n"));
}

}  // namespace zt::workload_api
