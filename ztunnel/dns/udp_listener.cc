#include "ztunnel/dns/udp_listener.h"

#include <sys/socket.h>

#include <utility>

#include "base/linux/sockets.h"

namespace zt::ztunnel::dns {

namespace {
constexpr int kBatchesPerTurn = 2;
constexpr int kMostWaiting = 1024;  // batches; more than a socket's queue holds
}  // namespace

UdpListener::UdpListener(EventLoop& loop, UniqueFd fd, PodDns& pod, PodCache& cache, Forwarder& forwarder,
                         OriginalServer& original, PacketBatch& batch)
    : loop_(loop),
      fd_(std::move(fd)),
      address_(local_address(fd_.get())),
      pod_(pod),
      cache_(cache),
      forwarder_(forwarder),
      original_(original),
      batch_(batch) {}

UdpListener::~UdpListener() {
  loop_.cancel_deferred(*this);
  loop_.unwatch(fd_.get(), *this);
}

Result<> UdpListener::start() {
  ZT_TRY(loop_.watch(fd_.get(), *this));
  loop_.defer(*this);  // what came before
  return {};
}

void UdpListener::on_ready(uint32_t) noexcept {
  if (serve_some()) loop_.defer(*this);
}

void UdpListener::on_turn_end() noexcept {
  if (serve_some()) loop_.defer(*this);
}

void UdpListener::serve_waiting() {
  for (int i = 0; i < kMostWaiting && serve_some(); ++i) {
  }
}

bool UdpListener::serve_some() {
  for (int i = 0; i < kBatchesPerTurn; ++i) {
    const size_t count = batch_.receive(fd_.get());
    if (count == 0) return false;
    for (size_t packet = 0; packet < count; ++packet) {
      serve(batch_.packet(packet), batch_.sender(packet), batch_.answer(packet));
    }
    batch_.send_answers(fd_.get(), count);
  }
  return true;
}

void UdpListener::serve(View message, const SocketAddress& client, Bytes& answer) {
  const Query query(message);
  Plan plan = pod_.plan(query, Transport::kUdp, answer);
  if (plan.step == Plan::Step::kForward) forward(query, client, std::move(plan.fallback), answer);
}

void UdpListener::forward(const Query& query, const SocketAddress& client, std::optional<Found> fallback, Bytes& answer) {
  auto upstreams = pod_.upstreams(original_.of_udp(client, address_));
  std::string key;
  if (query.kind() == Query::Kind::kQuestion && !upstreams.empty()) {
    key = exchange_key(upstreams.front(), query);
    if (!fallback && cache_.find(key, query, loop_.now(), answer)) return pod_.note_cached();
  }
  pod_.note_upstream(query, Transport::kUdp);
  auto done = [this, client, key, fallback = std::move(fallback),
               message = Bytes(query.message().begin(), query.message().end())](Forwarder::Outcome outcome, View response,
                                                                                Clock::duration took) {
    const Query asked(message);
    if (outcome == Forwarder::Outcome::kAnswered && !key.empty()) cache_.put(key, response, loop_.now());
    Bytes out;
    pod_.finish(asked, Transport::kUdp, fallback, outcome, response, took, out);
    sockaddr_storage to;
    const socklen_t length = client.to_sockaddr(to);
    ::sendto(fd_.get(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&to), length);
  };
  pod_.note_asked(forwarder_.ask(query.message(), std::move(upstreams), std::move(key), std::move(done)));
}

}  // namespace zt::ztunnel::dns
