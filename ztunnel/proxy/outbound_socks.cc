// Connections of SOCKS5 clients (contract §12.2): they say where to, and are told that they are there when they are.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>

#include "base/linux/sockets.h"
#include "mesh/reason.h"
#include "ztunnel/dns/resolve.h"
#include "ztunnel/proxy/outbound.h"
#include "ztunnel/proxy/socks5.h"

namespace zt::ztunnel {

namespace {

// For a client to say where it wants to go, and to read that it cannot.
constexpr std::chrono::seconds kTalkLimit{10};
constexpr std::chrono::seconds kFarewellLimit{1};
constexpr size_t kMostFarewellBytes = 64 * 1024;
// Names of one pod that a worker asks the name servers for at a time: the resolver is everybody's.
constexpr size_t kMostNames = 32;
// Addresses of a name that are tried, and how many may be silent for their whole part of the time that there is for all of them: so
// many quarters of what is left, while those that refuse at once cost none of it.
constexpr size_t kMostAddresses = 16;
constexpr Clock::rep kSilentAddresses = 4;

// The client's wish. The error: there is none, and `answer` is what it is to be told.
Task<Result<socks5::Request>> converse(EventLoop& loop, int fd, std::string_view& answer) {
  const auto deadline = Clock::now() + kTalkLimit;
  FdWaiter waiter(loop);
  if (auto attached = waiter.attach(fd); !attached) co_return std::unexpected(attached.error());
  socks5::Conversation talk;
  std::array<uint8_t, socks5::Conversation::kMostWanted> bytes;
  size_t have = 0;
  while (talk.wanted() > 0) {
    const ssize_t n = ::recv(fd, bytes.data() + have, talk.wanted() - have, 0);
    if (n == 0) co_return fail(Reason::kDownstreamReset, "socks: the client left without saying where to");
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) co_return fail(Reason::kDownstreamReset, "socks: " + errno_text(errno));
      if (!co_await waiter.wait(EPOLLIN, deadline))
        co_return fail(Reason::kInvalidInput, "socks: the client did not say in time where to");
      continue;
    }
    have += static_cast<size_t>(n);
    if (have < talk.wanted()) continue;
    talk.take(std::span(bytes).first(std::exchange(have, 0)));
    // The last word of a conversation that has failed is said by the caller.
    if (talk.refusal().empty() && !talk.output().empty() &&
        ::send(fd, talk.output().data(), talk.output().size(), MSG_NOSIGNAL) != static_cast<ssize_t>(talk.output().size()))
      co_return fail(Reason::kDownstreamReset, "socks: " + errno_text(errno));
  }
  if (talk.request()) co_return *talk.request();
  answer = talk.output();
  co_return fail(Reason::kInvalidInput, std::string(talk.refusal()));
}

}  // namespace

Task<void> Outbound::run_socks(Arrival arrival) {
  const SocketAddress client = arrival.client;
  Waiting waiting{std::move(arrival.fd), OpenSocket(worker_.traffic(), Reporter::kSource),
                  socks5::render(socks5::Reply::kSucceeded)};
  std::string_view answer;
  auto request = co_await converse(worker_.loop(), waiting.fd.get(), answer);
  if (!request) {
    deny_early(worker_, Direction::kOutbound, client, local_address(waiting.fd.get()), request.error());
    co_return co_await refuse_socks(waiting, answer);
  }
  std::vector<IpAddress> addresses;
  if (const auto* ip = std::get_if<IpAddress>(&request->host)) {
    addresses.push_back(*ip);
  } else {
    addresses = co_await socks_addresses(client, std::get<std::string>(request->host));
  }
  Error why{Reason::kNotFound, {}};
  // All share the time for one.
  const auto deadline = Clock::now() + kConnectTimeout;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) break;
    const auto each = left / std::min(static_cast<Clock::rep>(addresses.size() - i), kSilentAddresses);
    auto failed = co_await reach(waiting, client, {addresses[i], request->port},
                                 addresses.size() == 1 ? std::nullopt : std::optional<Clock::duration>(each));
    if (!failed) co_return;
    why = std::move(*failed);
  }
  co_await refuse_socks(waiting, socks5::render(socks5::reply_for(why)));
}

Task<std::vector<IpAddress>> Outbound::socks_addresses(const SocketAddress& client, std::string name) {
  const WorkerSettings& settings = worker_.settings();
  auto names = dns::NameRules::of_pod(pod_.name.ns, settings.cluster_domain);
  if (worker_.name_search()) names.search = *worker_.name_search();
  const dns::Client asker{
      .names = names, .network = settings.network, .preferred_ns = settings.preferred_ns, .ipv6 = settings.sockets.ipv6};
  std::string error = "the mesh has no address of it";
  auto found = dns::mesh_addresses(*worker_.snapshot(), asker, name);
  if (!found && names_asked_ >= kMostNames) {
    found.emplace();
    error = "too many names are being asked for";
    worker_.metrics().limit_reached.get({"socks_names_per_pod"}).add();
  } else if (!found) {
    struct Asked {
      explicit Asked(size_t& count) : count_(count) { ++count_; }
      Asked(const Asked&) = delete;
      ~Asked() { --count_; }
      size_t& count_;
    } asked(names_asked_);
    const auto answer = co_await worker_.host_names().find(name, kConnectTimeout, dns::NamedBy::kProgram);
    found = answer->addresses;
    error = answer->error;
  }
  if (found->empty()) {
    deny_early(worker_, Direction::kOutbound, client, {},
               {Reason::kNotFound, "socks: no ip addresses were resolved for " + name + ": " + error});
    co_return std::move(*found);
  }
  // Those who come next begin with another one of the same family.
  const auto others = std::ranges::partition(*found, &IpAddress::is_v4).begin();
  const uint64_t turn = name_turns_++;
  for (const auto& [from, to] : {std::pair(found->begin(), others), std::pair(others, found->end())}) {
    if (from != to) std::rotate(from, from + static_cast<ptrdiff_t>(turn % static_cast<uint64_t>(to - from)), to);
  }
  if (found->size() > kMostAddresses) {
    // Some of either family.
    const auto v4 = static_cast<size_t>(others - found->begin()), v6 = found->size() - v4;
    const size_t of_v6 = std::min(v6, std::max(kMostAddresses / 2, kMostAddresses - std::min(v4, kMostAddresses)));
    found->erase(others + static_cast<ptrdiff_t>(of_v6), found->end());
    found->erase(found->begin() + static_cast<ptrdiff_t>(kMostAddresses - of_v6), others);
  }
  co_return std::move(*found);
}

Task<void> Outbound::refuse_socks(Waiting& waiting, std::string_view answer) {
  const int fd = waiting.fd.get();
  if (answer.empty() || ::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0)
    co_return reset_and_close(std::move(waiting.fd));
  // Closing while there are unread bytes of the client's would be a reset, which may overtake the answer.
  ::shutdown(fd, SHUT_WR);
  const auto deadline = Clock::now() + kFarewellLimit;
  FdWaiter waiter(worker_.loop());
  if (!waiter.attach(fd)) co_return;
  std::array<char, 512> unread;
  for (size_t read = 0; read < kMostFarewellBytes;) {
    const ssize_t n = ::recv(fd, unread.data(), unread.size(), 0);
    if (n > 0) {
      read += static_cast<size_t>(n);
    } else if (n == 0 || (errno != EINTR && (errno != EAGAIN || !co_await waiter.wait(EPOLLIN, deadline)))) {
      break;
    }
  }
}

}  // namespace zt::ztunnel
