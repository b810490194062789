#include "workload_api/yaml/local_file.h"

#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/workload_api/mesh.h"

namespace zt::workload_api {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

std::string config(const std::string& name) {
  return "workloads: [{name: " + name + ", namespace: shop, workloadIps: [10.0.0.1]}]\n";
}

// A directory that goes away with the test, and a LocalFile in it.
struct Fixture {
  Fixture() {
    char name[] = "/tmp/zt-local-file-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    directory = name;
  }
  ~Fixture() { fs::remove_all(directory); }

  void write(const fs::path& name, const std::string& text) const { std::ofstream(directory / name) << text; }
  void start(const fs::path& name = "mesh.yaml") {
    file.emplace(loop, (directory / name).string(), [this](LocalContent content) {
      for (const auto& workload : content.batch.workloads) seen.push_back(workload->name.str());
    });
    bool read = false;
    file->start([this, &read](Result<LocalContent> first) {
      read = true;
      if (!first) {
        first_error = first.error().text;
        return;
      }
      for (const auto& workload : first->batch.workloads) seen.push_back(workload->name.str());
    });
    REQUIRE_FALSE(read);  // it does not keep the caller waiting
    REQUIRE(wait([&] { return read; }));
  }
  bool wait(const std::function<bool()>& done) { return loop.run_until(done, 10s); }

  fs::path directory;
  EventLoop loop;
  std::vector<std::string> seen;
  std::string first_error;
  std::optional<LocalFile> file;  // last: it refers to the others
};

}  // namespace

TEST_CASE("Every way of changing the file is seen") {
  Fixture f;
  f.write("mesh.yaml", config("first"));
  const auto expect = [&](const std::string& name) {
    INFO(name);
    REQUIRE(f.wait([&] { return f.seen.back() == name; }));
  };
  SECTION("written in place") {
    f.start();
    f.write("mesh.yaml", config("second"));
    expect("second");
  }
  SECTION("another file renamed over it, as editors do") {
    f.start();
    f.write(".mesh.yaml.swp", config("second"));
    fs::rename(f.directory / ".mesh.yaml.swp", f.directory / "mesh.yaml");
    expect("second");
    f.write(".mesh.yaml.swp", config("third"));
    fs::rename(f.directory / ".mesh.yaml.swp", f.directory / "mesh.yaml");
    expect("third");
  }
  SECTION("the link of a mounted ConfigMap swapped") {
    fs::remove(f.directory / "mesh.yaml");
    for (const auto& [version, name] : {std::pair("..v1", "first"), std::pair("..v2", "second"), std::pair("..v3", "third")}) {
      fs::create_directory(f.directory / version);
      f.write(fs::path(version) / "mesh.yaml", config(name));
    }
    fs::create_symlink("..v1", f.directory / "..data");
    fs::create_symlink("..data/mesh.yaml", f.directory / "mesh.yaml");
    f.start();
    for (const auto& [version, name] : {std::pair("..v2", "second"), std::pair("..v3", "third")}) {
      fs::create_symlink(version, f.directory / "..data_tmp");
      fs::rename(f.directory / "..data_tmp", f.directory / "..data");
      expect(name);
    }
  }
  SECTION("the file behind a link edited") {
    fs::create_directory(f.directory / "elsewhere");
    fs::rename(f.directory / "mesh.yaml", f.directory / "elsewhere" / "real.yaml");
    fs::create_symlink("elsewhere/real.yaml", f.directory / "mesh.yaml");
    f.start();
    f.write("elsewhere/real.yaml", config("second"));
    expect("second");
  }
  SECTION("removed and made again") {
    f.start();
    fs::remove(f.directory / "mesh.yaml");
    REQUIRE(f.wait([&] { return f.file->refused() == 1; }));
    f.write("mesh.yaml", config("second"));
    expect("second");
  }
  CHECK(f.seen.front() == "first");
  CHECK(f.file->applied() == f.seen.size() - 1);
}

TEST_CASE("A bad edit is refused whole, and the next good one is taken") {
  Fixture f;
  f.write("mesh.yaml", config("first"));
  f.start();
  f.write("mesh.yaml", config("second") + "services: [{hostname: h}]");
  REQUIRE(f.wait([&] { return f.file->refused() == 1; }));
  CHECK(f.seen == std::vector<std::string>{"first"});
  f.write("mesh.yaml", config("third"));
  REQUIRE(f.wait([&] { return f.file->applied() == 1; }));
  CHECK(f.seen == std::vector<std::string>{"first", "third"});
}

TEST_CASE("An edit that changes nothing, and other files, are no edits") {
  Fixture f;
  f.write("mesh.yaml", config("first"));
  f.start();
  f.write("mesh.yaml", config("first"));
  f.write("other.yaml", config("other"));
  f.write("mesh.yaml", config("last"));
  REQUIRE(f.wait([&] { return f.file->applied() == 1; }));
  CHECK(f.seen == std::vector<std::string>{"first", "last"});
}

TEST_CASE("A file that is bad at the start is reported, and watched all the same") {
  Fixture f;
  f.write("mesh.yaml", "workloads: 7");
  f.start();
  CHECK(f.first_error == (f.directory / "mesh.yaml").string() + ":1:12: workloads: list expected");
  f.write("mesh.yaml", config("good"));
  REQUIRE(f.wait([&] { return f.file->applied() == 1; }));
}

TEST_CASE("Of an edited file only what the edit changed is made anew and handed on") {
  const Fixture f;
  const auto text = [](const std::string& node, bool with_b) {
    return "workloads:\n- {name: a, namespace: shop, workloadIps: [10.0.0.1]}\n" +
           (with_b ? "- {name: b, namespace: shop, node: " + node + ", workloadIps: [10.0.0.2, 10.0.0.2]}\n" : std::string()) +
           "- {name: c, namespace: shop, services: {n/h: {80: 1}, a/b: }, workloadIps: [10.0.0.3, 10.0.0.3]}\n"
           "services: [{hostname: h, namespace: n}]\n"
           "policies: [{name: p, namespace: n, scope: Global, action: Deny, rules: []}]\n";
  };
  const std::string path = (f.directory / "mesh.yaml").string();
  const auto load = [&](const Store& store) {
    auto content = load_local_config(path, store.snapshot());
    REQUIRE(content);
    return std::move(*content);
  };
  Store store({.node_name = "n1"});
  f.write("mesh.yaml", text("n1", true));
  store.replace_local(load(store));
  const SnapshotPtr first = store.snapshot();
  REQUIRE(first->workload_count() == 3);

  SECTION("nothing: nothing is published") {
    LocalContent content = load(store);
    CHECK(content.batch.workloads.empty());
    CHECK(content.batch.services.empty());
    CHECK(content.batch.policies.empty());
    CHECK(content.workloads() + content.services() + content.policies() == 5);
    store.replace_local(std::move(content));
    CHECK(store.snapshot() == first);
  }
  SECTION("one line: the others are the same objects still") {
    f.write("mesh.yaml", text("n2", true));
    LocalContent content = load(store);
    REQUIRE(content.batch.workloads.size() == 1);
    CHECK(content.batch.workloads[0]->name == "b");
    store.replace_local(std::move(content));
    CHECK(store.snapshot()->workload("local//shop/b")->node == "n2");
    CHECK(store.snapshot()->workload("local//shop/a") == first->workload("local//shop/a"));
    CHECK(store.snapshot()->service("n/h") == first->service("n/h"));
  }
  SECTION("a line taken out: what it said goes, the rest stays the file's") {
    f.write("mesh.yaml", text("n1", false));
    store.replace_local(load(store));
    CHECK(store.snapshot()->workload("local//shop/b") == nullptr);
    store.replace_local({});
    CHECK(store.snapshot()->workload_count() + store.snapshot()->service_count() + store.snapshot()->policy_count() == 0);
  }
  SECTION("what a push changed between reading and applying is the file's again") {
    LocalContent content = load(store);
    Batch push = batch_of(
        "workloads: [{name: a, namespace: shop, workloadIps: [10.9.9.9]}]\n"
        "services: [{hostname: h, namespace: n, name: other}]\n"
        "policies: [{name: p, namespace: n, scope: Global, action: Allow, rules: []}]");
    push.removed_addresses = {"local//shop/a"};
    store.apply(std::move(push));
    REQUIRE(store.snapshot()->workload("local//shop/a") == nullptr);
    store.replace_local(std::move(content));
    CHECK(store.snapshot()->workload("local//shop/a")->addresses.at(0) == ip("10.0.0.1"));
    CHECK(store.snapshot()->service("n/h")->service().name.empty());
    CHECK(store.snapshot()->policy("n/p")->spec->action == PolicyAction::kDeny);
  }
}

TEST_CASE("An edit of a large file is read alone unless a push came in between") {
  Fixture f;
  Store store({.node_name = "n1"});
  const auto text = [](std::string_view node) {
    std::string all = "workloads:\n";
    for (unsigned i = 0; i < 4000; ++i)
      all += "- {name: w" + std::to_string(i) + ", namespace: shop, workloadIps: [10.0." + std::to_string(i / 250) + "." +
             std::to_string(i % 250) + "], node: " + std::string(i == 2000 ? node : "n") + ", serviceAccount: somebody}\n";
    return all;
  };
  const auto replace = [&](LocalContent content) { CHECK(store.replace_local(std::move(content)).empty()); };
  f.write("mesh.yaml", text("n"));
  f.file.emplace(f.loop, (f.directory / "mesh.yaml").string(), replace, [&] { return store.snapshot(); });
  f.file->start([&](Result<LocalContent> first) { replace(std::move(*first)); });
  REQUIRE(f.wait([&] { return store.snapshot()->workload_count() == 4000; }));
  const auto edit = [&](std::string_view node) {
    const uint64_t applied = f.file->applied();
    f.write("new.yaml", text(node));
    fs::rename(f.directory / "new.yaml", f.directory / "mesh.yaml");
    REQUIRE(f.wait([&] { return f.file->applied() > applied; }));
    CHECK(store.snapshot()->workload("local//shop/w2000")->node == node);
  };
  edit("n1");
  CHECK(f.file->edits() == 1);
  edit("n2");
  CHECK(f.file->edits() == 2);

  store.apply(batch_of("workloads: [{name: w3, namespace: shop, workloadIps: [10.9.9.9]}]"));
  REQUIRE(store.snapshot()->workload("local//shop/w3")->addresses.at(0) == ip("10.9.9.9"));
  edit("n3");
  CHECK(f.file->edits() == 2);  // the file says of that workload anew what it said before
  CHECK(store.snapshot()->workload("local//shop/w3")->addresses.at(0) == ip("10.0.0.3"));
  edit("n4");
  CHECK(f.file->edits() == 3);

  // A push while the change is being read: it is applied all the same, and all that the file says with it.
  const uint64_t applied = f.file->applied();
  f.write("new.yaml", text("n5"));
  fs::rename(f.directory / "new.yaml", f.directory / "mesh.yaml");
  unsigned pushes = 0;
  REQUIRE(f.wait([&] {
    if (pushes < 50)
      store.apply(batch_of("workloads: [{name: w4, namespace: shop, workloadIps: [10.9.9." + std::to_string(++pushes) + "]}]"));
    return f.file->applied() > applied;
  }));
  CHECK(store.snapshot()->workload("local//shop/w2000")->node == "n5");
}

TEST_CASE("Going away during a read is safe") {
  for (int i = 0; i < 20; ++i) {
    Fixture f;
    f.write("mesh.yaml", config("first"));
    if (i % 2 == 0) {
      f.start();
    } else {
      f.file.emplace(f.loop, (f.directory / "mesh.yaml").string(), [](LocalContent) {});
      f.file->start([](Result<LocalContent>) {});  // which is still reading when it goes
    }
    f.write("mesh.yaml", config("second"));
    f.loop.run_until([] { return false; }, LocalFile::kDebounce - 5ms + std::chrono::milliseconds(i));
    f.file.reset();
    f.loop.run_once(0ms);
  }
}

}  // namespace zt::workload_api
