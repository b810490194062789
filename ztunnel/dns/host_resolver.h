#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/address.h"
#include "base/event_loop.h"
#include "base/result.h"

struct ares_channeldata;

namespace zt::ztunnel::dns {

// What a host name stands for.
struct HostAnswer {
  std::vector<IpAddress> addresses;  // of both families, as the name server ordered them; empty: `error` says why
  std::string error;
  Clock::time_point fresh_until;  // may be used again until then without asking
};
using HostAnswerPtr = std::shared_ptr<const HostAnswer>;
using HostDone = std::function<void(HostAnswerPtr)>;

// Who chose a name: the mesh, whose state has it, or a program in a pod (SOCKS5), which may ask for as many as it likes. What the
// latter asks for puts nothing out of memory that the former needs.
enum class NamedBy : uint8_t { kMesh, kProgram };

struct HostResolverSettings {
  std::vector<SocketAddress> name_servers;  // asked in turn; empty: those of resolv.conf
  bool ipv6 = true;                         // else only A is asked for
  uint32_t mark = 0;                        // SO_MARK of its sockets; 0 = none
  std::chrono::milliseconds try_timeout{
      1'000};  // for one server's answer the first time; each round of all servers waits twice as long
  uint32_t rounds = 2;
  // What a name server says of how long an answer is good counts within these.
  std::chrono::milliseconds least_ttl{1'000}, most_ttl{3'600'000};
  // An answer that is older, and whose refreshment fails or does not come within `patience`, is given as it was for so long.
  // (RFC 8767. A name that is said to be gone is gone at once.)
  std::chrono::milliseconds stale{600'000}, patience{500};
  std::chrono::milliseconds retry{5'000};  // after a failure, nobody is asked for so long
  size_t names = 4096;                     // that are known at a time; beyond it the oldest that nobody waits for is forgotten,
                                           // programs' before the mesh's
  size_t queries = 256;                    // names that are asked for at a time; others wait for their turn
  size_t waiting = 20'000;                 // who may wait, in all
};
inline constexpr size_t kMostHostAddresses = 64;  // of a name; what is beyond is passed over

// Addresses of workloads that the control plane knows by host name only (contract §3.4), asked for by c-ares over our own name servers
// in our own network namespace: A and AAAA at once, one query for all who wait. /etc/hosts counts, search domains do not.
// Control thread.
class HostResolver {
 public:
  HostResolver(EventLoop& loop, HostResolverSettings settings);
  ~HostResolver();  // who waits is told nothing
  HostResolver(const HostResolver&) = delete;
  // Before anything is asked. kInternal.
  Result<> start();

  // Name servers for what is asked from now on; not none.
  void set_name_servers(std::vector<SocketAddress> servers);
  // `done` comes once, now or later.
  void resolve(const std::string& name, HostDone done, NamedBy by = NamedBy::kMesh);
  [[nodiscard]] uint64_t queries() const { return queries_; }  // since start
  [[nodiscard]] size_t known() const { return names_.size(); }

 private:
  struct Name;
  struct Socket;
  struct Callbacks;

  void ask(const std::string& name);
  void answered(const std::string& name, HostAnswerPtr answer, bool gone);
  void tell(Name& entry, const HostAnswerPtr& answer);
  bool make_room(NamedBy by);
  void start_queued();
  [[nodiscard]] bool has_to_wait() const { return asking_ >= settings_.queries || !next_servers_.empty(); }
  Result<> use(const std::vector<SocketAddress>& servers);
  void process(int fd, uint32_t events);
  void watch_time();

  EventLoop& loop_;
  const HostResolverSettings settings_;
  ares_channeldata* channel_ = nullptr;
  std::unordered_map<int, std::unique_ptr<Socket>> sockets_;
  std::vector<std::unique_ptr<Socket>> closed_sockets_;  // until nobody of them is being told
  std::unordered_map<std::string, std::unique_ptr<Name>> names_;
  std::deque<std::string> queued_;
  std::vector<SocketAddress> next_servers_;  // c-ares changes them between queries only: nothing is asked until then
  size_t asking_ = 0, waiting_ = 0;
  uint64_t queries_ = 0;
  Timer timer_;
};

}  // namespace zt::ztunnel::dns
