#include "ztunnel/dns/host_resolver.h"

#include <ares.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::ztunnel::dns {

namespace {

log::Scope kLog("dns");
using log::Field;

// c-ares reads a TCP socket once each time it is told; we are told once for all that has come.
constexpr int kMostReads = 64;

bool readable(int fd) {
  pollfd asked{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&asked, 1, 0) > 0 && (asked.revents & (POLLIN | POLLHUP | POLLERR)) != 0;
}

HostAnswerPtr failure(std::string error, Clock::time_point until) {
  return std::make_shared<const HostAnswer>(HostAnswer{.addresses = {}, .error = std::move(error), .fresh_until = until});
}

}  // namespace

struct HostResolver::Name {
  Name(EventLoop& loop, NamedBy whose) : patience(loop), by(whose) {}

  HostAnswerPtr answer;  // the last one with addresses, or that there is none
  Clock::time_point usable_until;
  Clock::time_point ask_from;  // after a failure
  std::vector<HostDone> waiting;
  Timer patience;
  NamedBy by;
  bool asking = false;   // or in the queue
  bool overdue = false;  // whoever asks while it is asked for gets the old answer
};

struct HostResolver::Socket final : Watcher {
  Socket(HostResolver& of, int descriptor) : resolver(of), fd(descriptor) {}
  void on_ready(uint32_t events) noexcept override { resolver.process(fd, events); }
  HostResolver& resolver;
  int fd;
};

struct HostResolver::Callbacks {
  struct Query {
    HostResolver& resolver;
    std::string name;
  };

  static void socket_state(void* data, ares_socket_t fd, int wants_read, int wants_write) {
    auto& self = *static_cast<HostResolver*>(data);
    const auto known = self.sockets_.find(fd);
    if (wants_read == 0 && wants_write == 0) {
      if (known == self.sockets_.end()) return;
      self.loop_.unwatch(fd, *known->second);
      self.closed_sockets_.push_back(std::move(known->second));
      self.sockets_.erase(known);
    } else if (known == self.sockets_.end()) {
      auto socket = std::make_unique<Socket>(self, fd);
      if (self.loop_.watch(fd, *socket)) self.sockets_[fd] = std::move(socket);
    }
  }

  static int socket_made(ares_socket_t fd, int, void* data) {
    const auto& self = *static_cast<HostResolver*>(data);
    const uint32_t mark = self.settings_.mark;
    return mark == 0 ? 0 : ::setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark);
  }

  static void answered(void* data, int status, int, ares_addrinfo* found) {
    const std::unique_ptr<Query> query(static_cast<Query*>(data));
    if (status == ARES_EDESTRUCTION) return;
    HostResolver& self = query->resolver;
    const auto now = Clock::now();
    auto answer = std::make_shared<HostAnswer>();
    int64_t ttl = INT32_MAX;
    for (const auto* node = found != nullptr ? found->nodes : nullptr; node != nullptr; node = node->ai_next) {
      if (node->ai_addr == nullptr || answer->addresses.size() >= kMostHostAddresses) continue;
      sockaddr_storage storage{};
      std::copy_n(reinterpret_cast<const char*>(node->ai_addr), std::min<size_t>(node->ai_addrlen, sizeof storage),
                  reinterpret_cast<char*>(&storage));
      const IpAddress ip = SocketAddress::from_sockaddr(storage).ip;
      ttl = std::min<int64_t>(ttl, node->ai_ttl);
      if (std::ranges::find(answer->addresses, ip) == answer->addresses.end()) answer->addresses.push_back(ip);
    }
    if (found != nullptr) ares_freeaddrinfo(found);
    const bool gone = status == ARES_ENOTFOUND || status == ARES_ENODATA || (status == ARES_SUCCESS && answer->addresses.empty());
    if (answer->addresses.empty()) {
      answer->error = gone ? "there is no such name, or it has no addresses" : ares_strerror(status);
      answer->fresh_until = now + self.settings_.retry;
    } else {
      const auto told = std::chrono::milliseconds(std::max<int64_t>(ttl, 0) * 1000);
      answer->fresh_until = now + std::clamp(told, self.settings_.least_ttl, self.settings_.most_ttl);
    }
    self.answered(query->name, std::move(answer), gone);
  }
};

HostResolver::HostResolver(EventLoop& loop, HostResolverSettings settings)
    : loop_(loop), settings_(std::move(settings)), timer_(loop) {}

HostResolver::~HostResolver() {
  if (channel_ != nullptr) ares_destroy(channel_);
}

Result<> HostResolver::start() {
  ares_options options{};
  options.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES;
  options.timeout = static_cast<int>(settings_.try_timeout.count());
  options.tries = static_cast<int>(settings_.rounds);
  options.sock_state_cb = Callbacks::socket_state;
  options.sock_state_cb_data = this;
  int status = ares_library_init(ARES_LIB_INIT_ALL);
  if (status == ARES_SUCCESS) {
    status =
        ares_init_options(&channel_, &options, ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
  }
  if (status != ARES_SUCCESS) return fail(Reason::kInternal, std::string("the resolver of host names: ") + ares_strerror(status));
  if (!settings_.name_servers.empty()) ZT_TRY(use(settings_.name_servers));
  ares_set_socket_configure_callback(channel_, Callbacks::socket_made, this);
  return {};
}

Result<> HostResolver::use(const std::vector<SocketAddress>& servers) {
  std::string list;
  for (const SocketAddress& server : servers) list += (list.empty() ? "" : ",") + server.to_string();
  const int status = ares_set_servers_ports_csv(channel_, list.c_str());
  if (status != ARES_SUCCESS) return fail(Reason::kInternal, std::string("the resolver of host names: ") + ares_strerror(status));
  return {};
}

void HostResolver::set_name_servers(std::vector<SocketAddress> servers) {
  next_servers_ = std::move(servers);
  start_queued();
}

void HostResolver::resolve(const std::string& name, HostDone done, NamedBy by) {
  const auto now = Clock::now();
  auto found = names_.find(name);
  if (waiting_ >= settings_.waiting) return done(failure("too many wait for host names to be resolved", now));
  if (found == names_.end()) {
    if (!make_room(by)) return done(failure("too many host names are being resolved", now));
    found = names_.emplace(name, std::make_unique<Name>(loop_, by)).first;
  }
  Name& entry = *found->second;
  if (by == NamedBy::kMesh) entry.by = by;
  if (entry.answer && now < entry.answer->fresh_until) return done(entry.answer);
  const bool usable = entry.answer && !entry.answer->addresses.empty() && now < entry.usable_until;
  if (usable && (entry.overdue || now < entry.ask_from)) return done(entry.answer);
  ++waiting_;
  entry.waiting.push_back(std::move(done));
  if (usable && !entry.patience.armed()) {
    entry.patience.start_after(settings_.patience, [this, &entry] {
      entry.overdue = entry.asking;
      tell(entry, entry.answer);
    });
  }
  if (!entry.asking) {
    entry.asking = true;
    if (has_to_wait()) {
      queued_.push_back(name);
    } else {
      ask(name);
    }
  }
}

void HostResolver::ask(const std::string& name) {
  ++asking_;
  ++queries_;
  ares_addrinfo_hints hints{};
  hints.ai_family = settings_.ipv6 ? AF_UNSPEC : AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = ARES_AI_NOSORT;
  ares_getaddrinfo(channel_, name.c_str(), nullptr, &hints, Callbacks::answered, new Callbacks::Query{*this, name});
  watch_time();
}

void HostResolver::answered(const std::string& name, HostAnswerPtr answer, bool gone) {
  --asking_;
  const auto found = names_.find(name);
  if (found != names_.end()) {
    Name& entry = *found->second;
    const auto now = Clock::now();
    entry.asking = entry.overdue = false;
    entry.patience.cancel();
    const bool keep_old =
        answer->addresses.empty() && !gone && entry.answer && !entry.answer->addresses.empty() && now < entry.usable_until;
    if (keep_old) {
      entry.ask_from = now + settings_.retry;
      ZT_LOG(kLog, kWarn, "a host name cannot be resolved anew, its old addresses are used", Field::string("name", name),
             Field::string("error", answer->error));
    } else {
      entry.answer = std::move(answer);
      entry.usable_until = entry.answer->fresh_until + settings_.stale;
    }
    tell(entry, entry.answer);
  }
  // Not from inside of c-ares.
  if (!queued_.empty() || !next_servers_.empty()) timer_.start(loop_.now(), [this] { process(-1, 0); });
}

void HostResolver::tell(Name& entry, const HostAnswerPtr& answer) {
  auto waiting = std::move(entry.waiting);
  entry.waiting.clear();
  waiting_ -= waiting.size();
  for (const HostDone& done : waiting) done(answer);
}

// The one whose answer has been old for the longest goes; none of the mesh's while there are programs', or for one of them.
bool HostResolver::make_room(NamedBy by) {
  if (names_.size() < settings_.names) return true;
  auto oldest = names_.end();
  const auto goes_before = [](const Name& one, const Name& other) {
    return one.by != other.by ? one.by == NamedBy::kProgram : one.answer->fresh_until < other.answer->fresh_until;
  };
  for (auto at = names_.begin(); at != names_.end(); ++at) {
    const Name& entry = *at->second;
    if (entry.asking || !entry.waiting.empty() || (by == NamedBy::kProgram && entry.by == NamedBy::kMesh)) continue;
    if (oldest == names_.end() || goes_before(entry, *oldest->second)) oldest = at;
  }
  if (oldest == names_.end()) return false;
  names_.erase(oldest);
  return true;
}

void HostResolver::start_queued() {
  if (!next_servers_.empty() && asking_ == 0) {
    if (auto used = use(std::exchange(next_servers_, {})); !used)
      ZT_LOG(kLog, kError, "the name servers stay those of before", Field::string("error", used.error().text));
  }
  while (!queued_.empty() && !has_to_wait()) {
    const std::string name = std::move(queued_.front());
    queued_.pop_front();
    ask(name);
  }
}

void HostResolver::process(int fd, uint32_t events) {
  const bool in = (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
  ares_process_fd(channel_, in ? fd : ARES_SOCKET_BAD, (events & EPOLLOUT) != 0 ? fd : ARES_SOCKET_BAD);
  for (int i = 0; i < kMostReads && fd >= 0 && sockets_.contains(fd) && readable(fd); ++i) {
    ares_process_fd(channel_, fd, ARES_SOCKET_BAD);
  }
  start_queued();
  watch_time();
  if (!closed_sockets_.empty()) {
    loop_.post([gone = std::make_shared<std::vector<std::unique_ptr<Socket>>>(std::move(closed_sockets_))] {});
    closed_sockets_.clear();
  }
}

void HostResolver::watch_time() {
  timeval room{};
  const timeval* const left = ares_timeout(channel_, nullptr, &room);
  if (left == nullptr) {
    if (queued_.empty()) timer_.cancel();
    return;
  }
  timer_.start_after(std::chrono::seconds(left->tv_sec) + std::chrono::microseconds(left->tv_usec + 1'000),
                     [this] { process(-1, 0); });
}

}  // namespace zt::ztunnel::dns
