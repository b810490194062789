#include "bench/load.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>

namespace load {

void die(const char* what) {
  std::fprintf(stderr, "load: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}
void die_text(const std::string& text) {
  std::fprintf(stderr, "load: %s\n", text.c_str());
  std::exit(1);
}

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

Options::Options(int argc, char** argv, int first) {
  for (int i = first; i < argc; ++i) {
    const std::string key = argv[i];
    if (!key.starts_with("--")) die_text("'" + key + "' is not an option");
    const bool has_value = i + 1 < argc && std::strncmp(argv[i + 1], "--", 2) != 0;
    values_[key.substr(2)] = has_value ? argv[++i] : "";
  }
}
std::string Options::text(const std::string& key, const std::string& fallback) {
  used_[key] = true;
  const auto it = values_.find(key);
  return it == values_.end() ? fallback : it->second;
}
int64_t Options::number(const std::string& key, int64_t fallback) {
  const std::string value = text(key);
  if (value.empty()) return fallback;
  char* end = nullptr;
  const long long number = std::strtoll(value.c_str(), &end, 10);
  if (*end != '\0' || number < 0) die_text("--" + key + " wants a number, not '" + value + "'");
  return number;
}
bool Options::flag(const std::string& key) {
  used_[key] = true;
  return values_.contains(key);
}
void Options::finish() const {
  for (const auto& [key, value] : values_) {
    if (!used_.contains(key)) die_text("unknown option --" + key);
  }
}

namespace {
sockaddr_storage parse_address(const std::string& ip, uint16_t port, uint32_t offset) {
  sockaddr_storage storage{};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  if (inet_pton(AF_INET, ip.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    v4->sin_addr.s_addr = htonl(ntohl(v4->sin_addr.s_addr) + offset);
  } else if (inet_pton(AF_INET6, ip.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    uint32_t low = 0;
    std::memcpy(&low, &v6->sin6_addr.s6_addr[12], sizeof(low));
    low = htonl(ntohl(low) + offset);
    std::memcpy(&v6->sin6_addr.s6_addr[12], &low, sizeof(low));
  } else {
    die_text("'" + ip + "' is not an IP address");
  }
  return storage;
}
}  // namespace

Targets::Targets(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) die_text("--to wants ADDRESS:PORT, not '" + text + "'");
  std::string ip = text.substr(0, colon);
  const auto port = static_cast<uint16_t>(std::atoi(text.c_str() + colon + 1));
  uint32_t count = 1;
  if (const size_t plus = ip.find('+'); plus != std::string::npos) {
    count = static_cast<uint32_t>(std::atoi(ip.c_str() + plus + 1));
    ip.resize(plus);
  }
  if (ip.starts_with('[') && ip.ends_with(']')) ip = ip.substr(1, ip.size() - 2);
  for (uint32_t i = 0; i < count; ++i) addresses_.push_back(parse_address(ip, port, i));
}
const sockaddr_storage& Targets::next() { return addresses_[next_++ % addresses_.size()]; }
socklen_t Targets::length() const { return addresses_.front().ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6); }

int connect_start(Targets& targets) {
  const sockaddr_storage& address = targets.next();
  const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), targets.length()) != 0 && errno != EINPROGRESS) {
    die("connect");
  }
  return fd;
}
void connect_finish(int fd) {
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    errno = error;
    die("connect");
  }
}
void send_all(int fd, const void* data, size_t size) {
  const ssize_t sent = ::send(fd, data, size, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(size)) die("send on a fresh connection");
}

Epoll::Epoll() : fd_(::epoll_create1(EPOLL_CLOEXEC)), events_(512) {
  if (fd_ < 0) die("epoll_create1");
}
void Epoll::add(int fd, uint32_t events, void* data) {
  epoll_event event{.events = events, .data = {.ptr = data}};
  if (::epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl");
}
void Epoll::change(int fd, uint32_t events, void* data) {
  epoll_event event{.events = events, .data = {.ptr = data}};
  if (::epoll_ctl(fd_, EPOLL_CTL_MOD, fd, &event) != 0) die("epoll_ctl");
}
const std::vector<epoll_event>& Epoll::wait(int64_t deadline_ns) {
  events_.resize(512);
  timespec left{};
  if (deadline_ns >= 0) {
    const int64_t ns = std::max<int64_t>(0, deadline_ns - now_ns());
    left = {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  }
  const int count =
      ::epoll_pwait2(fd_, events_.data(), static_cast<int>(events_.size()), deadline_ns >= 0 ? &left : nullptr, nullptr);
  if (count < 0 && errno != EINTR) die("epoll_pwait2");
  events_.resize(static_cast<size_t>(std::max(count, 0)));
  return events_;
}

std::string percentiles(std::vector<int64_t>& samples) {
  if (samples.empty()) return R"({"count":0})";
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    const auto index = static_cast<size_t>(share * static_cast<double>(samples.size() - 1));
    return static_cast<double>(samples[index]) / 1000.0;
  };
  char text[256];
  std::snprintf(text, sizeof(text), R"({"count":%zu,"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,"p999_us":%.1f,"max_us":%.1f})",
                samples.size(), at(0.5), at(0.9), at(0.99), at(0.999), at(1.0));
  return text;
}

}  // namespace load

int main(int argc, char** argv) {
  static const std::map<std::string, int (*)(load::Options&)> kCommands = {
      {"serve", load::serve}, {"bulk", load::bulk},   {"requests", load::requests}, {"connections", load::connections},
      {"idle", load::idle},   {"stall", load::stall},
  };
  const auto command = argc > 1 ? kCommands.find(argv[1]) : kCommands.end();
  if (command == kCommands.end()) {
    std::fputs(
        "usage: zt_load COMMAND --to ADDRESS:PORT …      results are one JSON line\n"
        "  serve       --port P                                        answers all the others\n"
        "  bulk        --conns N --seconds S [--up]                    moves as much as it can, down "
        "(default) or up\n"
        "  requests    --conns N --seconds S --rate R --request B --reply B   R = 0: closed loop\n"
        "  connections --parallel N --seconds S | --count N            connect, one byte each way, close; "
        "ADDRESS+K: K addresses in turn\n"
        "  idle        --conns N [--bytes B]                           fetches B on each, then holds them "
        "until stdin ends\n"
        "  stall       --conns N                                       writes to receivers that never read, "
        "until stdin ends\n",
        stderr);
    return 2;
  }
  ::signal(SIGPIPE, SIG_IGN);
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  load::Options options(argc, argv, 2);
  return command->second(options);
}
