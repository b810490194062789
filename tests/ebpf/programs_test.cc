#include "ebpf/programs.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "ebpf/ebpf.h"
#include "ebpf/pod_namespace.h"
#include "tests/support/netns/bpffs.h"
#include "tests/support/netns/test_pod.h"

using namespace zt;
using namespace zt::redirection;
using namespace zt::testing;
using Catch::Contains;

// What is pinned, and what it is attached to.

namespace {

// A group of the test's own under the one that the tests run in; empty: cannot be made here.
class OwnCgroup {
 public:
  OwnCgroup() : path_(test_cgroup() + "/zt-test-" + std::to_string(::getpid())) {
    if (::mkdir(path_.c_str(), 0700) != 0) path_.clear();
  }
  ~OwnCgroup() {
    if (!path_.empty()) ::rmdir(path_.c_str());
  }
  OwnCgroup(const OwnCgroup&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

uint64_t cookie_of(const Netns& netns) {
  const auto found = in_netns_thread(netns, [] { return look_at_namespace(); });
  REQUIRE(found);
  return found->cookie;
}

std::string said_by(EbpfRedirector& ebpf, const TestPod& pod) {
  const auto deviations = ebpf.verify({pod.pod, {}});
  REQUIRE(deviations);
  std::string said;
  for (const auto& deviation : *deviations) said += deviation + "\n";
  return said;
}

bool is_captured(const TestPod& pod) {
  const UniqueFd proxy = listen_in(*pod.pod, kOutboundPort, kProxyMark);
  const UniqueFd client = connect_in(*pod.pod, {TestPod::peer_ip(false), 8080});
  return static_cast<bool>(accept_from(proxy));
}

// A program that lets everything be, as another version of ours might.
UniqueFd idle_program(const char* name) {
  const std::array<bpf_insn, 2> code{
      bpf_insn{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 1},
      bpf_insn{.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  bpf_attr load{};
  load.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
  load.expected_attach_type = BPF_CGROUP_INET4_CONNECT;
  load.insns = reinterpret_cast<uintptr_t>(code.data());
  load.insn_cnt = code.size();
  load.license = reinterpret_cast<uintptr_t>("GPL");
  std::string(name).copy(load.prog_name, sizeof load.prog_name - 1);
  UniqueFd program(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
  REQUIRE(program);
  return program;
}

// Runs `child` in a process of its own, and returns what it returned.
int in_child(const std::function<int()>& child) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(child());
  int status = 0;
  REQUIRE(::waitpid(pid, &status, 0) == pid);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("root: what eBPF redirection keeps of pods goes when their namespaces are gone") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  uint64_t cookie = 0;
  {
    TestPod pod;
    REQUIRE(ebpf.enroll({pod.pod, {}}));
    cookie = cookie_of(*pod.pod);
  }
  // The kernel takes a namespace apart when it has the time.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const std::string pin = bpffs.path() + "/ztunnel-1/pods/" + std::to_string(cookie);
  while (std::filesystem::exists(pin) && std::chrono::steady_clock::now() < deadline) REQUIRE(ebpf.probe());
  CHECK_FALSE(std::filesystem::exists(pin));
  const auto programs = Programs::open(bpffs.path());
  REQUIRE(programs);
  CHECK_FALSE(programs->pod(cookie));
  CHECK(programs->own_addresses(cookie).empty());
}

TEST_CASE("root: a full map of pods makes room by those that are gone") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  auto gone = std::make_unique<TestPod>();
  REQUIRE(ebpf.enroll({gone->pod, {}}));
  auto programs = Programs::open(bpffs.path());
  REQUIRE(programs);
  uint64_t last = 0;
  while (programs->put_pod(last + 1'000'000'000, {})) REQUIRE(++last <= 4096);
  TestPod pod;
  REQUIRE_FALSE(ebpf.enroll({pod.pod, {}}));
  gone.reset();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  bool enrolled = false;
  while (!enrolled && std::chrono::steady_clock::now() < deadline) enrolled = ebpf.enroll({pod.pod, {}}).has_value();
  CHECK(enrolled);
}

TEST_CASE("root: a map that was unpinned is found again, and every pod stays captured") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const auto* map = GENERATE(as<const char*>{}, "pods", "passing", "captured");
  INFO(map);
  const Bpffs bpffs;
  TestPod pod, other;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  REQUIRE(ebpf.enroll({other.pod, {}}));
  std::filesystem::remove(bpffs.path() + "/ztunnel-1/maps/" + map);
  CHECK_THAT(said_by(ebpf, pod), Contains("missing eBPF programs"));
  const auto repaired = ebpf.enroll({pod.pod, {}});
  INFO(error_text(repaired));
  REQUIRE(repaired);
  CHECK(said_by(ebpf, other).empty());
  CHECK(is_captured(other));
}

TEST_CASE("root: a repair that fails leaves the pods as they are") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  TestPod pod, other;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  // An agent that is told nonsense.
  CHECK_FALSE(EbpfRedirector({.bpffs = bpffs.path(), .cgroup = "/tmp"}).enroll({other.pod, {}}));
  CHECK(said_by(ebpf, pod).empty());
  CHECK(is_captured(pod));
}

TEST_CASE("root: programs that are attached to another cgroup than the pods' are a deviation, and move") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const OwnCgroup cgroup;
  if (cgroup.path().empty()) {
    WARN("not tried: no cgroup can be made here");
    return;
  }
  const Bpffs bpffs;
  TestPod pod;
  REQUIRE(EbpfRedirector({.bpffs = bpffs.path(), .cgroup = cgroup.path()}).enroll({pod.pod, {}}));
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  CHECK_THAT(said_by(ebpf, pod), Contains("zt_connect4 is on another cgroup than " + test_cgroup()));
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  CHECK(said_by(ebpf, pod).empty());
  CHECK(is_captured(pod));
}

TEST_CASE("root: where only a container's own cgroups can be seen eBPF redirection is not taken for working") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const OwnCgroup cgroup;
  if (cgroup.path().empty()) {
    WARN("not tried: no cgroup can be made here");
    return;
  }
  const Bpffs bpffs;
  const auto in_container = [&] {
    const UniqueFd procs(::open((cgroup.path() + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (::write(procs.get(), "0", 1) != 1 || ::unshare(CLONE_NEWCGROUP | CLONE_NEWNS) != 0) return 2;
    const std::string group = test_cgroup();
    if (::umount2(group.c_str(), MNT_DETACH) != 0 || ::mount("none", group.c_str(), "cgroup2", 0, nullptr) != 0) return 2;
    const auto probed = EbpfRedirector({.bpffs = bpffs.path()}).probe();
    if (probed) return 1;
    return probed.error().text.find("a container's own") == std::string::npos ? 3 : 0;
  };
  const int said = in_child(in_container);
  if (said == 2) {
    WARN("not tried: cgroups cannot be mounted here");
    return;
  }
  CHECK(said == 0);
}

TEST_CASE("root: a new agent replaces the programs of another version, and pods stay captured") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  TestPod pod;
  EbpfRedirector former({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  REQUIRE(former.enroll({pod.pod, {}}));
  const std::string pin = bpffs.path() + "/ztunnel-1/links/zt_connect4";
  bpf_attr get{};
  get.pathname = reinterpret_cast<uintptr_t>(pin.c_str());
  const UniqueFd link(static_cast<int>(::syscall(SYS_bpf, BPF_OBJ_GET, &get, sizeof get)));
  const UniqueFd program = idle_program("zt_connect4");
  bpf_attr update{};
  update.link_update.link_fd = static_cast<uint32_t>(link.get());
  update.link_update.new_prog_fd = static_cast<uint32_t>(program.get());
  REQUIRE(::syscall(SYS_bpf, BPF_LINK_UPDATE, &update, sizeof update) == 0);
  EbpfRedirector next({.bpffs = bpffs.path(), .cgroup = test_cgroup()});
  const auto probed = next.probe();
  INFO(error_text(probed));
  REQUIRE(probed);
  CHECK(is_captured(pod));
}

TEST_CASE("root: beside a program that translates addresses for all eBPF redirection wants to be told its group") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  struct stat root{};
  if (::stat(test_cgroup().c_str(), &root) != 0 || root.st_ino != 1) {
    WARN("not tried: not all cgroups can be seen here");
    return;
  }
  const Bpffs bpffs;
  const UniqueFd group(::open(test_cgroup().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)), program = idle_program("some_cni");
  bpf_attr create{};
  create.link_create.prog_fd = static_cast<uint32_t>(program.get());
  create.link_create.target_fd = static_cast<uint32_t>(group.get());
  create.link_create.attach_type = BPF_CGROUP_INET4_CONNECT;
  const UniqueFd link(static_cast<int>(::syscall(SYS_bpf, BPF_LINK_CREATE, &create, sizeof create)));
  REQUIRE(link);
  const auto probed = EbpfRedirector({.bpffs = bpffs.path()}).probe();
  REQUIRE_FALSE(probed);
  CHECK_THAT(probed.error().text, Contains("some_cni"));
  CHECK(EbpfRedirector({.bpffs = bpffs.path(), .cgroup = test_cgroup()}).probe());
}

TEST_CASE("root: where /proc/sys cannot be written eBPF redirection does not work, and says so") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const Bpffs bpffs;
  REQUIRE(::mount("/proc/sys", "/proc/sys", nullptr, MS_BIND, nullptr) == 0);
  REQUIRE(::mount("none", "/proc/sys", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0);
  const auto probed = EbpfRedirector({.bpffs = bpffs.path(), .cgroup = test_cgroup()}).probe();
  ::umount2("/proc/sys", MNT_DETACH);
  REQUIRE_FALSE(probed);
  CHECK_THAT(probed.error().text, Contains("cannot write /proc/sys/net/ipv4/tcp_fwmark_accept"));
}

TEST_CASE("root: a proxy that cannot be seen is named, and a missing listener is a deviation") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  UniqueFd listener = listen_in(*pod.pod, kInboundPlaintextPort, kProxyMark);
  const pid_t proxy = ::fork();
  if (proxy == 0) {
    ::pause();
    ::_exit(0);
  }
  listener.reset();
  const std::string process = "/proc/" + std::to_string(proxy);
  REQUIRE(::mount("none", process.c_str(), "tmpfs", 0, nullptr) == 0);
  const auto hidden = ebpf.enroll({pod.pod, {}});
  ::umount2(process.c_str(), MNT_DETACH);
  REQUIRE_FALSE(hidden);
  CHECK_THAT(hidden.error().text, Contains("hostPID"));
  CHECK_THAT(said_by(ebpf, pod), Contains("no listener in the eBPF map"));
  CHECK(ebpf.enroll({pod.pod, {}}));
  CHECK(said_by(ebpf, pod).empty());
  ::kill(proxy, SIGKILL);
  ::waitpid(proxy, nullptr, 0);
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
}

TEST_CASE("root: only enrolled pods' listeners take room in the eBPF map") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  TestPod stranger, pod;
  EbpfRedirector ebpf({.bpffs = own_bpffs(), .cgroup = test_cgroup()});
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  const UniqueFd anybodys = listen_in(*stranger.pod, kInboundPlaintextPort, kProxyMark);
  const UniqueFd listener = listen_in(*pod.pod, kInboundPlaintextPort, kProxyMark);
  const auto programs = Programs::open(own_bpffs());
  REQUIRE(programs);
  CHECK_FALSE(programs->has_listener(cookie_of(*stranger.pod)));
  CHECK(programs->has_listener(cookie_of(*pod.pod)));
  REQUIRE(ebpf.unenroll({pod.pod, {}}));
}

namespace {

// A /proc with process 1 and one that calls itself the kubelet.
class FakeProc {
 public:
  FakeProc(const std::string& cgroup, const char* mounts) {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
    for (const char* process : {"1", "42"}) {
      const std::filesystem::path folder = std::filesystem::path(path_) / process;
      std::filesystem::create_directories(folder / "ns");
      std::ofstream(folder / "comm") << (process[0] == '1' ? "systemd" : "kubelet") << "\n";
      std::ofstream(folder / "cgroup") << "1:name=systemd:/else\n0::" << (process[0] == '1' ? "/" : cgroup) << "\n";
      for (const char* kind : {"net", "pid"}) std::filesystem::create_symlink("same:[1]", folder / "ns" / kind);
      std::filesystem::create_symlink(process[0] == '1' ? "mnt:[1]" : mounts, folder / "ns" / "mnt");
    }
  }
  ~FakeProc() { std::filesystem::remove_all(path_); }
  FakeProc(const FakeProc&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/zt-proc-XXXXXX";
};

}  // namespace

TEST_CASE("root: with eBPF the kubelet's probes reach the application from any address, and nobody else does") {
  ZT_NEEDS_ROOT("network namespaces");
  if (!can_try_ebpf()) return;
  const OwnCgroup cgroup;
  if (cgroup.path().empty()) {
    WARN("not tried: no cgroup can be made here");
    return;
  }
  const bool v6 = GENERATE(false, true);
  INFO((v6 ? "IPv6" : "IPv4"));
  const FakeProc proc(GENERATE(as<std::string>{}, "", "/../..") + cgroup.path().substr(test_cgroup().size()), "mnt:[1]");
  const Bpffs bpffs;
  TestPod pod;
  EbpfRedirector ebpf({.bpffs = bpffs.path(), .proc = proc.path(), .cgroup = test_cgroup()});
  const UniqueFd app = listen_in(*pod.pod, 8080);
  REQUIRE(ebpf.enroll({pod.pod, {}}));
  const UniqueFd proxy = listen_in(*pod.pod, kInboundPlaintextPort, kProxyMark);
  const pid_t kubelet = ::fork();
  if (kubelet == 0) {
    const UniqueFd procs(::open((cgroup.path() + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (::write(procs.get(), "0", 1) != 1) ::_exit(1);
    const UniqueFd probe = connect_in(pod.peer, {TestPod::pod_ip(v6), 8080});
    ::pause();
    ::_exit(0);
  }
  {
    const UniqueFd probe = accept_from(app);
    CHECK(probe);
    if (probe) CHECK(peer_of(probe).ip == TestPod::peer_ip(v6));
  }
  CHECK(nobody_at(proxy));
  const UniqueFd other = connect_in(pod.peer, {TestPod::pod_ip(v6), 8080});
  CHECK(accept_from(proxy));
  ::kill(kubelet, SIGKILL);
  ::waitpid(kubelet, nullptr, 0);
}

TEST_CASE("root: a process in a container that calls itself the kubelet is none") {
  ZT_NEEDS_ROOT("control groups");
  const OwnCgroup cgroup;
  if (test_cgroup().empty() || cgroup.path().empty()) return;
  const std::string group = cgroup.path().substr(test_cgroup().size());
  CHECK(find_kubelet(FakeProc(group, "mnt:[1]").path(), test_cgroup()) != 0);
  CHECK(find_kubelet(FakeProc(group, "mnt:[2]").path(), test_cgroup()) == 0);
  CHECK(find_kubelet(FakeProc("/", "mnt:[1]").path(), test_cgroup()) == 0);
  CHECK(find_kubelet(FakeProc("/not-there", "mnt:[1]").path(), test_cgroup()) == 0);
}
