#include <fmt/format.h>
#include <malloc.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "workload_api/store/store.h"
#include "workload_api/yaml/yaml_source.h"

// What a large local file may cost. The bounds are far from what was measured (./dev bench state --yaml), so that a busy machine does
// not matter, and far below what a tree of the document costs.
namespace zt::workload_api {
namespace {

constexpr size_t kWorkloads = 20'000;

// Memory under a sanitizer says nothing.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ZT_SANITIZED 1
#endif
#endif

struct File {
  File() {
    char name[] = "/tmp/zt-large-file-XXXXXX";
    const int fd = ::mkstemp(name);
    REQUIRE(fd >= 0);
    ::close(fd);
    path = name;
  }
  ~File() { std::filesystem::remove(path); }

  void write(std::string_view first_node) const {
    std::ofstream out(path);
    out << "workloads:\n";
    for (size_t i = 0; i < kWorkloads; ++i) {
      const size_t of = i / 15;
      out << fmt::format(
          "- uid: Kubernetes//Pod/team-{0}/app-{1}-6d8f9c-{2:05x}\n  name: app-{1}-6d8f9c-{2:05x}\n  namespace: team-{0}\n"
          "  serviceAccount: app-{1}\n  workloadIps: [20.0.{3}.{4}]\n  protocol: HBONE\n  node: {5}\n  workloadType: pod\n"
          "  workloadName: app-{1}\n  canonicalName: app-{1}\n"
          "  services: {{team-{0}/app-{1}.team-{0}.svc.cluster.local: {{80: 8080, 9090: 9090}}}}\n",
          of / 30, of, i, i / 256, i % 256, i == 0 ? std::string(first_node) : fmt::format("node-{}", i / 110));
    }
    out << "services:\n";
    for (size_t of = 0; of < kWorkloads / 15; ++of)
      out << fmt::format(
          "- {{name: app-{1}, namespace: team-{0}, hostname: app-{1}.team-{0}.svc.cluster.local, vips: [/10.96.{2}.{3}], "
          "ports: {{80: 8080, 9090: 9090}}}}\n",
          of / 30, of, of / 256, of % 256);
  }

  std::string path;
};

[[maybe_unused]] size_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return std::stoull(line.substr(key.size() + 1)) * 1024;
  return 0;
}

std::chrono::milliseconds cpu_time() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::milliseconds(now.tv_sec * 1000 + now.tv_nsec / 1'000'000);
}

}  // namespace

TEST_CASE("A large local file costs the memory of its mesh, not of a tree of the document") {
  const File file;
  file.write("node-0");
  const auto size = static_cast<size_t>(std::filesystem::file_size(file.path));
  Store store({.node_name = "n1"});
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM begins anew
  [[maybe_unused]] const size_t before = status_bytes("VmRSS");
  const auto begin = cpu_time();
  auto content = load_local_config(file.path);
  REQUIRE(content);
  REQUIRE(store.replace_local(std::move(*content)).empty());
  const auto took = cpu_time() - begin;
  CHECK(store.snapshot()->workload_count() == kWorkloads);
#ifndef ZT_SANITIZED
  INFO("file " << size << ", before " << before << ", peak " << status_bytes("VmHWM") << ", ms " << took.count());
  CHECK(status_bytes("VmHWM") - before < 2 * size);
  CHECK(status_bytes("VmRSS") - before < 2 * size);
  CHECK(took < std::chrono::milliseconds(2'000));  // 300 measured; a tree took 4100
#else
  CHECK(size > 0);
#endif
}

#ifndef ZT_RED
TEST_CASE("An edited line of a large local file is applied without making the mesh again") {
  const File file;
  file.write("node-0");
  Store store({.node_name = "n1"});
  store.replace_local(*load_local_config(file.path));
  const SnapshotPtr before = store.snapshot();
  file.write("node-edited");
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
  [[maybe_unused]] const size_t resident = status_bytes("VmRSS");
  auto content = load_local_config(file.path, before);
  REQUIRE(content);
  CHECK(content->batch.workloads.size() == 1);
  CHECK(content->batch.services.empty());
  CHECK(content->workloads() == kWorkloads);
  const auto begin = cpu_time();
  store.replace_local(std::move(*content));
  const auto took = cpu_time() - begin;
  CHECK(store.snapshot()->generation() == before->generation() + 1);
  CHECK(took < std::chrono::milliseconds(100));  // on the control thread; 5 measured
#ifndef ZT_SANITIZED
  INFO("before " << resident << ", peak " << status_bytes("VmHWM"));
  CHECK(status_bytes("VmHWM") - resident < std::filesystem::file_size(file.path) / 2);
#endif
}
#endif

}  // namespace zt::workload_api
