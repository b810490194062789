#include "agent/cni_install/cni_install.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::agent;
using namespace zt::testing;
using namespace std::chrono_literals;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

const std::string kConf = R"({"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"bridge"}]})";

struct Fixture {
  TempDir dir;
  EventLoop loop;
  CniInstall::Options options{.program = dir / "image-plugin",
                              .bin_folder = dir / "bin",
                              .conf_folder = dir / "net.d",
                              .entry = {.run_folder = "/run/z", .excluded_namespaces = {}, .pod_namespace = "mesh"},
                              .settle = 10ms,
                              .poll = 60s,
                              .pause = 0ms};
  std::string conf = dir / "net.d/10-lab.conflist", program = dir / "bin/ztunnel-cni";
  std::unique_ptr<CniInstall> install;

  Fixture() {
    fs::create_directory(dir / "bin");
    fs::create_directory(dir / "net.d");
    write(options.program, "the program");
    write(conf, kConf);
  }
  static void write(const std::string& path, std::string_view text) { std::ofstream(path, std::ios::trunc) << text; }
  static std::string text(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void start() {
    install = std::make_unique<CniInstall>(loop, options);
    install->start();
  }
  [[nodiscard]] bool entered() const { return text(conf).find("\"type\":\"ztunnel-cni\"") != std::string::npos; }
  bool until(const std::function<bool()>& done) {
    const auto deadline = Clock::now() + 10s;
    while (!done() && Clock::now() < deadline) loop.run_once(5ms);
    return done();
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "Program and entry are put onto the node, and nothing is written that is there") {
  fs::permissions(conf, fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read);
  start();
  CHECK(install->installed());
  CHECK(entered());
  CHECK(text(program) == "the program");
  CHECK((fs::status(program).permissions() & fs::perms::others_exec) != fs::perms::none);
  CHECK(fs::status(conf).permissions() == (fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read));
  const auto written = fs::last_write_time(conf);
  start();
  CHECK(install->installed());
  CHECK(install->installs() == 0);
  CHECK(fs::last_write_time(conf) == written);
}

TEST_CASE_METHOD(Fixture, "An entry that somebody takes away comes back, ten times") {
  start();
  for (int i = 0; i < 10; ++i) {
    write(conf, kConf);
    REQUIRE(until([&] { return entered(); }));
  }
  fs::remove(program);
  CHECK(until([&] { return fs::exists(program); }));
  write(program, "another");
  CHECK(until([&] { return text(program) == "the program"; }));
}

TEST_CASE_METHOD(Fixture, "A node without a configuration is waited for, and one that is being written as well") {
  fs::remove(conf);
  start();
  CHECK_FALSE(install->installed());
  write(conf, kConf.substr(0, 20));
  for (int turn = 0; turn < 40; ++turn) loop.run_once(5ms);
  CHECK(text(conf) == kConf.substr(0, 20));
  CHECK_FALSE(install->installed());
  write(conf, kConf);
  CHECK(until([&] { return entered(); }));
  CHECK(until([&] { return install->installed(); }));
}

TEST_CASE_METHOD(Fixture, "A plain configuration is replaced by a list") {
  fs::remove(conf);
  write(dir / "net.d/10-lab.conf", R"({"cniVersion":"0.4.0","type":"bridge"})");
  start();
  CHECK(install->installed());
  CHECK_FALSE(fs::exists(dir / "net.d/10-lab.conf"));
  CHECK(entered());
}

TEST_CASE_METHOD(Fixture, "A folder that is not there is said and waited for") {
  fs::remove_all(dir / "bin");
  options.poll = 50ms;
  start();
  CHECK_FALSE(install->installed());
  CHECK_FALSE(entered());  // an entry without a program would stop every pod
  fs::create_directory(dir / "bin");
  CHECK(until([&] { return install->installed(); }));
  CHECK(entered());
}

TEST_CASE_METHOD(Fixture, "Removal takes entry and program away, and is done twice without harm") {
  start();
  install.reset();
  CHECK(CniInstall::remove(options));
  CHECK_FALSE(entered());
  CHECK_THAT(text(conf), Contains("bridge"));
  CHECK_FALSE(fs::exists(program));
  CHECK(CniInstall::remove(options));
  fs::remove_all(dir / "net.d");
  CHECK(CniInstall::remove(options));
}

TEST_CASE_METHOD(Fixture, "A plain configuration that is named goes on being kept under the name that it gets") {
  fs::remove(conf);
  options.conf_name = "10-lab.conf";
  write(dir / "net.d/10-lab.conf", R"({"cniVersion":"0.4.0","type":"bridge"})");
  start();
  REQUIRE(install->installed());
  write(conf, kConf);
  CHECK(until([&] { return entered(); }));
  CHECK(install->installed());
}

TEST_CASE_METHOD(Fixture, "A plain configuration does not take the name of a list that is there") {
  write(dir / "net.d/10-lab.conf", R"({"cniVersion":"0.4.0","type":"bridge"})");
  start();
  CHECK_FALSE(install->installed());
  CHECK(text(conf) == kConf);
}
