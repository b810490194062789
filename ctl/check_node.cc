#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <sys/timex.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "base/text.h"
#include "ctl/check.h"
#include "redirection/backends/backends.h"
#include "redirection/constants.h"

// What is looked at on the node itself.
namespace zt::ctl {

namespace {

using Verdict = Answer::Verdict;
namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

struct InNamespace {
  std::set<std::string> addresses;
  std::map<uint16_t, std::set<uint64_t>> listening;  // ports, and the inodes of the sockets
};

// On a thread of the namespace.
Result<InNamespace> look_around() {
  InNamespace found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return fail_errno(Fault::kIo, "getifaddrs");
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (each->ifa_addr->sa_family == AF_INET) {
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr, text, sizeof(text));
    } else if (each->ifa_addr->sa_family == AF_INET6) {
      ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(each->ifa_addr)->sin6_addr, text, sizeof(text));
    } else {
      continue;
    }
    found.addresses.insert(text);
  }
  ::freeifaddrs(list);
  for (const char* path : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
    std::ifstream table(path);
    std::string line;
    std::getline(table, line);
    while (std::getline(table, line)) {
      // number, local address, remote address, state, queues, timer, retransmits, user, time-out, inode
      std::istringstream words(line);
      std::string number, local, remote, state, queues, timer, retransmits;
      uint64_t user = 0, timeout = 0, inode = 0;
      words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
      const auto colon = local.rfind(':');
      if (!words || state != "0A" || colon == std::string::npos) continue;
      found.listening[static_cast<uint16_t>(std::stoul(local.substr(colon + 1), nullptr, 16))].insert(inode);
    }
  }
  return found;
}

// Does the proxy have a socket there?
bool serves(const InNamespace& found, const std::set<uint64_t>& sockets) {
  return std::ranges::any_of(found.listening, [&](const auto& port) {
    return std::ranges::any_of(port.second, [&](uint64_t inode) { return sockets.contains(inode); });
  });
}

struct Expected {
  bool dns = false, ipv6 = true;
};

std::string joined(const redirection::Deviations& deviations) {
  constexpr size_t kMost = 3;
  const std::vector<std::string> first(deviations.begin(),
                                       deviations.begin() + static_cast<ptrdiff_t>(std::min(kMost, deviations.size())));
  const std::string more = deviations.size() > kMost ? fmt::format("; and {} more", deviations.size() - kMost) : "";
  return fmt::format("{}{}", fmt::join(first, "; "), more);
}

// The rules in the pod, against what an agent makes. Which options it made them with is in the pod's annotations, which are not seen here:
// those that fit are the pod's.
Answer rules_of(const std::string& question, const std::shared_ptr<const Netns>& netns, const Expected& expected) {
  std::optional<redirection::Deviations> fewest;
  std::string by, why_not;
  bool dns_differs = false;
  for (const char* backend : {"nftables", "iptables"}) {
    const auto redirector = redirection::make_redirector({.backend = backend});
    if (!redirector) continue;
    if (const auto probed = (*redirector)->probe(); !probed) {
      why_not += (why_not.empty() ? "" : "; ") + probed.error().text;
      continue;
    }
    for (const bool dns : {expected.dns, !expected.dns}) {
      for (const bool ingress : {false, true}) {
        const auto deviations = (*redirector)
                                    ->verify({.netns = netns,
                                              .options = {.dns = dns,
                                                          .ingress = ingress,
                                                          .ipv6 = expected.ipv6,
                                                          .cut_established = false,
                                                          .virtual_interfaces = {}}});
        if (!deviations) {
          why_not = deviations.error().text;
          continue;
        }
        if (fewest && fewest->size() <= deviations->size()) continue;
        fewest = *deviations;
        by = backend;
        dns_differs = dns != expected.dns;
      }
    }
  }
  if (!fewest) return {question, Verdict::kNotAsked, why_not, "run this as root, on the node"};
  if (std::ranges::any_of(*fewest, [](const std::string& deviation) { return deviation == "unexpected redirection by ebpf"; })) {
    return {question, Verdict::kNotAsked, "redirected by eBPF, which is not looked into here",
            "the agent looks into it itself; its log's lines of scope redirection say what it repairs"};
  }
  if (fewest->empty() && dns_differs) {
    return {question, Verdict::kDoubtful,
            fmt::format("redirected by {}, but the agent {} DNS while the proxy {}", by,
                        expected.dns ? "does not capture" : "captures", expected.dns ? "serves it" : "does not serve it"),
            "give both the same setting: ISTIO_META_DNS_CAPTURE of the proxy, AMBIENT_DNS_CAPTURE of ztunnel-agent "
            "(ambient.dnsCapture of "
            "istio-cni), or the pod's annotation ambient.istio.io/dns-capture"};
  }
  if (fewest->empty()) return {question, Verdict::kRight, fmt::format("redirected by {}, as it should be", by), ""};
  return {question, Verdict::kWrong, joined(*fewest),
          "its connections go around the proxy, or nowhere. The agent repairs it at its next look (ztunnel-agent: "
          "ZTUNNEL_AGENT_VERIFY_INTERVAL); if not, is it running? Its log names the pod"};
}

Answer listeners_of(const std::string& question, const InNamespace& found) {
  std::vector<std::string> missing;
  for (const uint16_t port : {redirection::kOutboundPort, redirection::kInboundPlaintextPort, redirection::kInboundHbonePort})
    if (!found.listening.contains(port)) missing.push_back(std::to_string(port));
  if (missing.empty()) return {question, Verdict::kRight, "the proxy listens in it", ""};
  return {question, Verdict::kWrong, fmt::format("nobody listens on {} in it", fmt::join(missing, ", ")),
          "what is redirected is refused there. The proxy's log names the pod and says why it could not listen"};
}

}  // namespace

void check_kernel(Answers& answers) {
  utsname name{};
  ::uname(&name);
  const std::string kernel = fmt::format("Linux {}", name.release);
  std::string why_not;
  for (const char* backend : {"nftables", "iptables"}) {
    const auto redirector = redirection::make_redirector({.backend = backend});
    if (!redirector) continue;
    const auto probed = (*redirector)->probe();
    if (probed) {
      answers.push_back({"kernel", Verdict::kRight, fmt::format("{}, redirection by {} works", kernel, backend), ""});
      return;
    }
    why_not += (why_not.empty() ? "" : "; ") + probed.error().text;
  }
  answers.push_back(
      {"kernel", ::geteuid() == 0 ? Verdict::kWrong : Verdict::kNotAsked, fmt::format("{}: {}", kernel, why_not),
       ::geteuid() == 0
           ? "the node's kernel needs nf_tables (modprobe nf_tables), or iptables and its modules for --backend iptables"
           : "run this as root, on the node"});
}

void check_capabilities(std::string_view process, Answers& answers) {
  constexpr std::pair<int, const char*> kNeeded[] = {{12, "NET_ADMIN"}, {13, "NET_RAW"}, {21, "SYS_ADMIN"}};
  std::ifstream status(fmt::format("/proc/{}/status", process));
  const std::string question = fmt::format("capabilities of the proxy (process {})", process);
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("CapEff:")) continue;
    const uint64_t set = std::stoull(line.substr(7), nullptr, 16);
    std::vector<std::string> missing;
    for (const auto& [bit, name] : kNeeded)
      if ((set >> bit & 1) == 0) missing.emplace_back(name);
    if (missing.empty()) {
      answers.push_back({question, Verdict::kRight, "it has what it needs", ""});
    } else {
      answers.push_back({question, Verdict::kWrong, fmt::format("it lacks {}", fmt::join(missing, ", ")),
                         "add them to its container's securityContext.capabilities, or start it as root"});
    }
    return;
  }
  answers.push_back({question, Verdict::kNotAsked, "its status cannot be read", "run this as root, on the node"});
}

void check_clock(Answers& answers) {
  timex state{};
  const int answer = ::adjtimex(&state);
  if (answer < 0) {
    answers.push_back({"clock", Verdict::kNotAsked, "the kernel does not say whether it is synchronized", ""});
  } else if ((state.status & STA_UNSYNC) != 0) {
    answers.push_back(
        {"clock", Verdict::kDoubtful, "nobody synchronizes it, as far as the kernel knows",
         "certificates are valid for hours: run chrony or systemd-timesyncd on the node (a virtual machine may be given its "
         "host's clock without the kernel knowing)"});
  } else {
    answers.push_back({"clock", Verdict::kRight, "synchronized", ""});
  }
}

std::vector<int> find_proxies(int pid) {
  if (pid != 0) return {pid};
  std::vector<int> found;
  const auto mine = Netns::current();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const auto number = whole_number<int>(entry.path().filename().string());
    if (!number || first_line(entry.path() / "comm") != "ztunnel") continue;
    const auto its = Netns::open(entry.path() / "ns/net");
    if (mine && its && mine->id() == its->id()) found.push_back(*number);
  }
  return found;
}

std::set<uint64_t> sockets_of(int pid) {
  std::set<uint64_t> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), error)) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    constexpr std::string_view kBefore = "socket:[";
    if (gone || !target.starts_with(kBefore) || !target.ends_with(']')) continue;
    if (const auto inode =
            whole_number<uint64_t>(std::string_view(target).substr(kBefore.size(), target.size() - kBefore.size() - 1)))
      found.insert(*inode);
  }
  return found;
}

std::vector<std::shared_ptr<const Netns>> all_namespaces() {
  std::vector<std::shared_ptr<const Netns>> found;
  std::set<Netns::Id> seen;
  const auto add = [&](const fs::path& path) {
    auto netns = Netns::open(path);
    if (netns && seen.insert(netns->id()).second) found.push_back(std::make_shared<const Netns>(std::move(*netns)));
  };
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/run/netns", error)) add(entry.path());
  for (const auto& entry : fs::directory_iterator("/proc", error))
    if (whole_number<int>(entry.path().filename().string())) add(entry.path() / "ns/net");
  return found;
}

void check_pods(const Dump& dump, const std::vector<std::shared_ptr<const Netns>>& namespaces, const std::set<uint64_t>& sockets,
                Answers& answers) {
  const Listing listing = pods(dump, {});
  const json::object& config = dump.object("config");
  const auto flag = [&](const char* name, bool otherwise) {
    const json::value* value = config.if_contains(name);
    return value != nullptr && value->is_bool() ? value->get_bool() : otherwise;
  };
  const Expected expected{.dns = flag("dnsProxy", false), .ipv6 = flag("ipv6Enabled", true)};
  std::vector<std::pair<std::shared_ptr<const Netns>, InNamespace>> looked;
  std::string why_not;
  for (const auto& netns : namespaces) {
    auto found = in_netns_thread(*netns, look_around);
    if (found)
      looked.emplace_back(netns, std::move(*found));
    else
      why_not = found.error().text;
  }
  for (const auto& row : listing.rows) {
    const std::string question = fmt::format("pod {}/{}", text_in(row, "namespace"), text_in(row, "name"));
    const json::value* addresses = row.if_contains("addresses");
    const std::pair<std::shared_ptr<const Netns>, InNamespace>* its = nullptr;
    for (const auto& each : looked) {
      const bool has_address = addresses != nullptr && addresses->is_array() &&
                               std::ranges::any_of(addresses->get_array(), [&](const json::value& address) {
                                 return address.is_string() && each.second.addresses.contains(std::string(address.get_string()));
                               });
      if (!has_address) continue;
      if (its == nullptr || serves(each.second, sockets)) its = &each;
    }
    if (its == nullptr) {
      answers.push_back({question, Verdict::kNotAsked,
                         why_not.empty() ? "no network namespace that is seen here has its address" : why_not,
                         "run this as root, on the node; does the control plane know the pod's address (ztunnelctl "
                         "workloads --pod)?"});
      continue;
    }
    const Answer listening = listeners_of(question, its->second);
    if (listening.verdict != Verdict::kRight) answers.push_back(listening);
    answers.push_back(rules_of(question, its->first, expected));
  }
}

}  // namespace zt::ctl
