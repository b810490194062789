// What redirection costs, by backend: to let pods in and out (wall time and CPU time, of the programs that are run as well), and to
// connect out of a pod and into it, against a pod that nothing redirects.
//   redirect_bench [--pods N] [--connects N] [--cgroup FOLDER] [backend…]
// A backend that does not work here is named with its reason. Needs root; mounts a bpf file system that goes with the process.
#include <fmt/format.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "base/linux/netns.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "mesh/reason.h"
#include "redirection/backends/backends.h"
#include "redirection/constants.h"

using namespace zt;
using namespace zt::redirection;

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const std::string& text) {
  std::fprintf(stderr, "redirect_bench: %s\n", text.c_str());
  std::exit(1);  // NOLINT(concurrency-mt-unsafe)
}

template <class T>
T must(Result<T> result) {
  if (!result) die(result.error().text);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

double cpu_us() {
  double sum = 0;
  for (const auto who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used{};
    ::getrusage(who, &used);
    for (const timeval& part : {used.ru_utime, used.ru_stime}) {
      sum += static_cast<double>(part.tv_sec) * 1e6 + static_cast<double>(part.tv_usec);
    }
  }
  return sum;
}

struct Cost {
  double wall_us = 0, cpu_us = 0;
};
template <class F>
Cost cost_of(size_t times, F&& work) {
  const double cpu = cpu_us();
  const auto from = Clock::now();
  for (size_t i = 0; i < times; ++i) work(i);
  const double wall = std::chrono::duration<double, std::micro>(Clock::now() - from).count();
  return {wall / static_cast<double>(times), (cpu_us() - cpu) / static_cast<double>(times)};
}

void sh(const Netns& netns, const std::string& command) {
  must(in_netns_thread(netns, [&]() -> Result<> {
    if (std::system(command.c_str()) == 0) return {};  // NOLINT(concurrency-mt-unsafe)
    return fail(Reason::kIo, command);
  }));
}

struct Pod {
  std::shared_ptr<const Netns> netns = std::make_shared<const Netns>(must(make_scratch_netns()));
  Netns peer = must(make_scratch_netns());
  Pod() {
    sh(*netns, fmt::format("ip link set lo up && ip link add eth0 type veth peer name eth0 netns /proc/{}/fd/{} && "
                           "ip addr add 10.99.0.1/24 dev eth0 && ip addr add fd00:99::1/64 dev eth0 nodad && ip link set eth0 up",
                           ::getpid(), peer.fd()));
    sh(peer,
       "ip link set lo up && ip addr add 10.99.0.2/24 dev eth0 && ip addr add fd00:99::2/64 dev eth0 nodad && ip link set eth0 "
       "up");
    sh(*netns, "ip route add default via 10.99.0.2 && ip -6 route add default via fd00:99::2");
  }
};

UniqueFd listen_in(const Netns& netns, uint16_t port, uint32_t mark) {
  return must(in_netns(netns, [&]() -> Result<UniqueFd> {
    UniqueFd socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (mark != 0 && ::setsockopt(socket.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0)
      return fail_errno(Reason::kIo, "SO_MARK");
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(port);
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) != 0 || ::listen(socket.get(), 128) != 0) {
      return fail_errno(Reason::kIo, fmt::format("cannot listen at port {}", port));
    }
    const timeval limit{.tv_sec = 5, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return socket;
  }));
}

// From the client's connect() to the connection's end at both sides.
Cost connects(const Netns& client, const char* address, const UniqueFd& listener, size_t times) {
  return must(in_netns_thread(client, [&]() -> Result<Cost> {
    sockaddr_storage to;
    const socklen_t length = SocketAddress{*IpAddress::parse(address), 8080}.to_sockaddr(to);
    const auto once = [&](size_t /*number*/) {
      const UniqueFd socket(::socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const linger reset{.l_onoff = 1, .l_linger = 0};  // no port is left waiting
      ::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
      if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), length) != 0)
        die(fmt::format("connect: {}", errno_text(errno)));
      const UniqueFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!accepted) die(fmt::format("nobody came: {}", errno_text(errno)));
    };
    for (size_t i = 0; i < times / 10; ++i) once(i);  // caches
    return cost_of(times, once);
  }));
}

void print_connects(std::string_view backend, const Pod& pod, bool redirected, size_t times) {
  for (const bool v6 : {false, true}) {
    Cost out, in;
    {
      const UniqueFd listener = redirected ? listen_in(*pod.netns, kOutboundPort, kProxyMark) : listen_in(pod.peer, 8080, 0);
      out = connects(*pod.netns, v6 ? "fd00:99::2" : "10.99.0.2", listener, times);
    }
    {
      const UniqueFd listener =
          redirected ? listen_in(*pod.netns, kInboundPlaintextPort, kProxyMark) : listen_in(*pod.netns, 8080, 0);
      in = connects(pod.peer, v6 ? "fd00:99::1" : "10.99.0.1", listener, times);
    }
    fmt::print("{:16} {:5} out {:7.1f} us, CPU {:7.1f} us   in {:7.1f} us, CPU {:7.1f} us\n", backend, v6 ? "IPv6" : "IPv4",
               out.wall_us, out.cpu_us, in.wall_us, in.cpu_us);
  }
}

void measure(const std::string& name, Redirector& redirector, const std::vector<std::unique_ptr<Pod>>& pods, size_t times) {
  for (const size_t count : {size_t{1}, pods.size()}) {
    const auto target = [&](size_t i) { return RedirectedPod{pods[i]->netns, {.dns = true}}; };
    const Cost enrol = cost_of(count, [&](size_t i) { must(redirector.enroll(target(i))); });
    const Cost verify = cost_of(count, [&](size_t i) {
      if (!must(redirector.verify(target(i))).empty()) die(name + " does not do what it says");
    });
    if (count == 1) print_connects(name, *pods[0], true, times);
    const Cost leave = cost_of(count, [&](size_t i) {
      must(redirector.stop_capturing(target(i)));
      must(redirector.unenroll(target(i)));
    });
    fmt::print(
        "{:16} {:3} pods, each: enrol {:8.0f} us, CPU {:8.0f} us   check {:8.0f} us, CPU {:8.0f} us   leave {:8.0f} us, CPU "
        "{:8.0f} us\n",
        name, count, enrol.wall_us, enrol.cpu_us, verify.wall_us, verify.cpu_us, leave.wall_us, leave.cpu_us);
    std::fflush(stdout);
  }
}

// Mounted where nobody else sees it.
std::string own_bpffs() {
  std::string folder = "/tmp/zt-bench-XXXXXX";
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mkdtemp(folder.data()) == nullptr || ::mount("bpf", folder.c_str(), "bpf", 0, nullptr) != 0) {
    fmt::print("no bpf file system: {}\n", errno_text(errno));
  }
  return folder;
}

}  // namespace

int main(int argc, char** argv) {
  size_t pods_wanted = 100, times = 2000;
  std::string cgroup;
  std::vector<std::string> names;
  const std::vector<std::string> words(argv + 1, argv + argc);
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--pods" && i + 1 < words.size()) {
      pods_wanted = std::stoul(words[++i]);
    } else if (words[i] == "--connects" && i + 1 < words.size()) {
      times = std::stoul(words[++i]);
    } else if (words[i] == "--cgroup" && i + 1 < words.size()) {
      cgroup = words[++i];
    } else if (words[i].starts_with("-")) {
      die("usage: redirect_bench [--pods N] [--connects N] [--cgroup FOLDER] [nftables|iptables-nft|iptables-legacy|ebpf]…");
    } else {
      names.push_back(words[i]);
    }
  }
  if (names.empty()) names = {"nftables", "iptables-nft", "iptables-legacy", "ebpf"};
  if (pods_wanted == 0 || times == 0) die("at least one");
  must(log::set_filter("error"));
  const std::string bpffs = own_bpffs();
  // Of each backend its own: the nft variant of iptables leaves empty tables behind, which all others would ask about.
  const auto make_pods = [](size_t count) {
    std::vector<std::unique_ptr<Pod>> pods;
    for (size_t i = 0; i < count; ++i) pods.push_back(std::make_unique<Pod>());
    return pods;
  };
  print_connects("no redirection", *make_pods(1)[0], false, times);
  for (const auto& name : names) {
    const bool iptables = name.starts_with("iptables-");
    BackendSettings settings{.backend = iptables ? "iptables" : name,
                             .iptables_variant = iptables ? name.substr(std::string_view("iptables-").size()) : "",
                             .ebpf = {.bpffs = bpffs, .cgroup = cgroup}};
    const auto redirector = must(make_redirector(settings));
    if (const auto works = redirector->probe(); !works) {
      fmt::print("{:16} not measured: {}\n", name, works.error().text);
      continue;
    }
    measure(name, *redirector, make_pods(pods_wanted), times);
  }
  ::umount2(bpffs.c_str(), MNT_DETACH);
  ::rmdir(bpffs.c_str());
}
