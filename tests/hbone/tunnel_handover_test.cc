#include <catch2/catch.hpp>
#include <random>

#include "mesh/reason.h"
#include "tests/hbone/handover.h"
#include "tests/support/seal_guard/seal_guard.h"

using namespace zt;
using namespace zt::hbone;
using namespace zt::hbone::testing;
using namespace std::chrono_literals;

namespace {

// The byte at a place of one direction of one connection: what is lost, doubled or out of place shows.
char byte_at(uint64_t direction, size_t place) {
  uint64_t x = direction * 0x9e3779b97f4a7c15u + (place >> 3) * 0xbf58476d1ce4e5b9u;
  x ^= x >> 31;
  return static_cast<char>(x >> 8 * (place & 7));
}
std::string bytes_from(uint64_t direction, size_t place, size_t count) {
  std::string out(count, '\0');
  for (size_t i = 0; i < count; ++i) out[i] = byte_at(direction, place + i);
  return out;
}
bool is_beginning_of(uint64_t direction, const std::string& received) {
  for (size_t i = 0; i < received.size(); ++i) {
    if (received[i] != byte_at(direction, i)) return false;
  }
  return true;
}

// What moves met, over a whole run.
struct Met {
  size_t moves = 0, streams = 0, kept = 0, unsent = 0, partial = 0, inside_data = 0, inside_frame = 0, unanswered = 0,
         half_closed = 0;
  void note(const TunnelState& state) {
    ++moves;
    unsent += !state.unsent.empty();
    partial += !state.partial.empty();
    inside_data += state.cursor.data_left > 0;
    inside_frame += !state.cursor.held.empty();
    for (const StreamState& stream : state.streams) {
      ++streams;
      kept += !stream.kept.empty();
      unanswered += state.role == TunnelRole::kClient && !stream.headers_complete;
      half_closed += stream.end_sent || stream.end_received;
    }
  }
};

// One connection through the pair: both users, and what each has sent.
struct Connection {
  explicit Connection(uint64_t which) : number(which) {}
  uint64_t number;
  std::unique_ptr<MemoryUser> client;
  MemoryUser* server = nullptr;
  size_t sent_up = 0, sent_down = 0;
  bool ended_up = false, ended_down = false, broken = false;

  [[nodiscard]] bool good() const {
    if (!is_beginning_of(number * 2, server != nullptr ? server->received : "")) return false;
    return is_beginning_of(number * 2 + 1, client->received);
  }
  [[nodiscard]] bool complete() const {
    return server != nullptr && server->received.size() == sent_up && client->received.size() == sent_down && server->ended &&
           client->ended;
  }
};

// Sockets that hold little, so that writes are cut anywhere; without the timers that TCP has for such.
std::pair<UniqueFd, UniqueFd> sockets(int buffers) {
  if (buffers == 0) return tcp_pair();
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  for (int fd : ends) REQUIRE(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffers, sizeof buffers) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Traffic without a plan on many streams, and moves in the midst of it.
class Churn {
 public:
  Churn(unsigned seed, bool move_client, bool move_server, TunnelConfig config, int buffers)
      : random_(seed), move_client_(move_client), move_server_(move_server), pair_(config, sockets(buffers)) {
    pair_.server.on_new = [this](MemoryUser& user) {
      const std::string name = authority(pair_.server.requests.back());
      Connection& connection = *connections_.at(std::stoul(name));
      connection.server = &user;
      user.take_limit = pick(3) == 0 ? pick(60'000) : SIZE_MAX;
    };
  }
  Met run(size_t moves) {
    Met met;
    while (met.moves < moves) {
      if (pair_.client.tunnel == nullptr || pair_.server.tunnel == nullptr) break;
      act();
      if (pick(3) == 0) pair_.loop.run_once(std::chrono::milliseconds(0));
      if (pick(8) != 0) continue;
      TunnelState state;
      std::optional<Unmovable> why = Unmovable::kClosed;
      const bool client = move_client_ && (!move_server_ || pick(2) == 0);
      if (client) {
        why = hand_over(pair_.io, pair_.config, pair_.client, client_users(), &state);
      } else {
        why = hand_over(pair_.io, pair_.config, pair_.server, users_of(pair_.server.users), &state);
      }
      if (!why) met.note(state);
    }
    INFO((pair_.client.closed ? pair_.client.closed->text : "") << (pair_.server.closed ? pair_.server.closed->text : ""));
    REQUIRE(pair_.client.tunnel != nullptr);
    REQUIRE(pair_.server.tunnel != nullptr);
    finish();
    return met;
  }

 private:
  static std::string authority(const Headers& headers) { return headers.at(1).second; }
  size_t pick(size_t below) { return std::uniform_int_distribution<size_t>(0, below - 1)(random_); }
  Users client_users() {
    Users users;
    for (auto& each : connections_) {
      if (each->client->stream != nullptr) users[each->client->stream->id()] = each->client.get();
    }
    return users;
  }
  void open() {
    if (pair_.client.tunnel->free_streams() == 0) return;
    auto& made = *connections_.emplace_back(std::make_unique<Connection>(connections_.size()));
    made.client = std::make_unique<MemoryUser>();
    made.client->take_limit = pick(3) == 0 ? pick(60'000) : SIZE_MAX;
    // Names that come again go into tables of headers, unless there are none.
    const Headers headers{{":method", "CONNECT"},
                          {":authority", std::to_string(connections_.size() - 1)},
                          {"baggage", "k8s.cluster.name=c,k8s.namespace.name=n" + std::to_string(pick(4))}};
    auto stream = pair_.client.tunnel->open(headers, *made.client);
    REQUIRE(stream);
    made.client->stream = *stream;
    open_.push_back(&made);
  }
  void act() {
    if (open_.empty() || (open_.size() < 40 && pick(6) == 0)) return open();
    const size_t which = pick(open_.size());
    Connection& at = *open_[which];
    const bool gone = at.client->stream == nullptr && (at.server == nullptr || at.server->stream == nullptr);
    switch (pick(10)) {
      case 0:
      case 1:
      case 2: send(at, true, pick(pick(8) == 0 ? 300'000 : 3000)); break;
      case 3:
      case 4:
      case 5: send(at, false, pick(pick(8) == 0 ? 300'000 : 3000)); break;
      case 6: widen(*at.client, pick(100'000)); break;
      case 7:
        if (at.server != nullptr) widen(*at.server, pick(100'000));
        break;
      case 8: end(at, pick(2) == 0); break;
      case 9:
        if (pick(3) == 0) {
          at.broken = true;
          MemoryUser* const user = pick(2) == 0 || at.server == nullptr ? at.client.get() : at.server;
          user->abandon(H2Error::kCancel);
        }
        break;
      default: break;
    }
    if (gone) open_.erase(open_.begin() + static_cast<ptrdiff_t>(which));
  }
  void send(Connection& at, bool up, size_t count) {
    MemoryUser* const user = up ? at.client.get() : at.server;
    if (user == nullptr || user->stream == nullptr || (up ? at.ended_up : at.ended_down)) return;
    size_t& sent = up ? at.sent_up : at.sent_down;
    user->send(bytes_from(at.number * 2 + (up ? 0 : 1), sent, count));
    sent += count;
  }
  void end(Connection& at, bool up) {
    MemoryUser* const user = up ? at.client.get() : at.server;
    if (user == nullptr || user->stream == nullptr) return;
    user->send("", true);
    (up ? at.ended_up : at.ended_down) = true;
  }
  void widen(MemoryUser& user, size_t more) {
    if (user.take_limit == SIZE_MAX) return;
    user.take_limit += more;
    if (user.stream != nullptr) user.stream->resume_delivery();
  }
  // All that is not broken ends in order, with every byte.
  void finish() {
    const auto settled = [this] {
      bool all = true;
      for (auto& each : connections_) {
        if (each->broken) continue;
        for (MemoryUser* user : {each->client.get(), each->server}) {
          if (user == nullptr) {
            all = false;
            continue;
          }
          user->take_limit = SIZE_MAX;
          if (user->stream != nullptr) user->stream->resume_delivery();
        }
        end(*each, true);
        end(*each, false);
        all = all && each->complete();
      }
      return all;
    };
    CHECK(pair_.run(settled));
    for (auto& each : connections_) {
      if (each->broken) {
        CHECK(each->good());
        continue;
      }
      INFO("connection " << each->number << " of " << connections_.size() << ": sent " << each->sent_up << "/" << each->sent_down
                         << ", received " << (each->server != nullptr ? each->server->received.size() : 0) << "/"
                         << each->client->received.size());
      CHECK(each->good());
      CHECK(each->complete());
    }
  }

  std::mt19937 random_;
  bool move_client_, move_server_;
  Pair pair_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> open_;
};

}  // namespace

TEST_CASE("a tunnel that is handed over in the midst of traffic loses, doubles and changes no byte") {
  const bool client = GENERATE(true, false);
  const bool server = GENERATE(true, false);
  if (!client && !server) return;
  const bool small_frames = GENERATE(false, true);
  const int buffers = GENERATE(0, 8 * 1024);
  const unsigned seed = GENERATE(range(1u, 4u));
  CAPTURE(client, server, small_frames, buffers, seed);
  TunnelConfig config;
  if (small_frames) config.max_frame_bytes = 16384;
  if (seed == 3) config.connection_window = 256 * 1024;
  const SealGuard guard;
  Churn(seed, client, server, config, buffers).run(60);
  CHECK(SealGuard::sealed() > 0);
  CHECK(SealGuard::sealed_twice() == 0);
}

TEST_CASE("hand-overs meet tunnels in every state") {
  Met all;
  for (unsigned seed = 10; seed < 16; ++seed) {
    const Met met = Churn(seed, true, true, {}, seed % 2 == 0 ? 8 * 1024 : 0).run(60);
    all.streams += met.streams;
    all.kept += met.kept;
    all.unsent += met.unsent;
    all.partial += met.partial;
    all.inside_data += met.inside_data;
    all.inside_frame += met.inside_frame;
    all.unanswered += met.unanswered;
    all.half_closed += met.half_closed;
  }
  CHECK(all.streams > 1000);
  CHECK(all.kept > 0);
  CHECK(all.unsent > 0);
  CHECK(all.partial > 0);
  CHECK(all.inside_data > 0);
  CHECK(all.unanswered > 0);
  CHECK(all.half_closed > 0);
}
