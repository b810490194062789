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
    file.emplace(loop, (directory / name).string(), [this](LocalConfig config) {
      for (const auto& workload : config.workloads) seen.push_back(workload->name.str());
    });
    auto first = file->start();
    if (first)
      for (const auto& workload : first->workloads) seen.push_back(workload->name.str());
    else
      first_error = first.error().text;
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

TEST_CASE("Going away during a read is safe") {
  for (int i = 0; i < 20; ++i) {
    Fixture f;
    f.write("mesh.yaml", config("first"));
    f.start();
    f.write("mesh.yaml", config("second"));
    f.loop.run_until([] { return false; }, LocalFile::kDebounce - 5ms + std::chrono::milliseconds(i));
    f.file.reset();
    f.loop.run_once(0ms);
  }
}

}  // namespace zt::workload_api
