#pragma once
#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/event_loop.h"
#include "base/thread_checker.h"
#include "base/walk_list.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/proxy/connection_lines.h"
#include "ztunnel/proxy/pod_counts.h"
#include "ztunnel/proxy/relay.h"

namespace zt::ztunnel {

// One connection that was let in or out. In its pod's table from before its policy was asked until it ends.
struct Connection final : WalkList<Connection>::Element {
  Connection(Worker& worker, std::atomic<uint32_t>& pod, ConnectionInfo info)
      : record(worker, std::move(info)), on_worker(worker.connections), in_pod(pod) {}
  Connection(Worker& worker, std::atomic<uint32_t>& pod, ConnectionInfo info, const RelayBytes& counted)
      : record(worker, std::move(info), counted), on_worker(worker.connections), in_pod(pod) {}

  ConnectionRecord record;
  std::unique_ptr<Relay> relay;  // null until bytes may move
  OpenSocket accepted;           // the one it came on; a tunnel's is counted once
  const Counted on_worker, in_pod;
};

// The open connections of one pod on one worker. Owns them; each ends by end(), by the end of its relay, or with the table.
// Worker's thread.
class ConnectionTable {
 public:
  // `in_pod`: connections of the pod on all workers.
  ConnectionTable(Worker& worker, std::atomic<uint32_t>& in_pod)
      : worker_(worker), in_pod_(in_pod), count_timer_(worker.loop()) {}
  ConnectionTable(const ConnectionTable&) = delete;
  ~ConnectionTable() { end_all(Reason::kDrained, "connection closed due to connection drain"); }

  Connection& add(ConnectionInfo info);
  // One that another process had. Its relay is resumed with done(), and is the connection's from then on.
  Connection& adopt(ConnectionInfo info, const RelayBytes& counted);
  [[nodiscard]] Relay::Done done(Connection& connection) {
    return [this, &connection](Relay&) { remove(connection); };
  }
  // It goes on in another process: nothing is said of it here. Its relay has been discarded.
  void forget(Connection& connection);
  // Its log line is written and it is gone.
  void end(Connection& connection, const Error& why);
  // Bytes move between `sockets` (what the relay's start() takes) from here on; the connection ends with its relay, at once if
  // the relay cannot start.
  template <std::derived_from<Relay> R, class... Sockets>
  void start(Connection& connection, std::unique_ptr<R> relay, Sockets&&... sockets) {
    R& moving = *relay;
    moving.connection = &connection;
    connection.relay = std::move(relay);
    auto started = moving.start(std::forward<Sockets>(sockets)..., done(connection));
    if (!started) end(connection, started.error());
  }

  // Applications and peers of connections with a relay see resets; they end at the end of the turn. In pieces: `anew` begins;
  // true when none is left.
  bool kill_some(bool anew, Reason reason, const std::string& text);
  // Ends as many of them as a piece has, now, in whatever state they are. True when none is left.
  bool end_some(Reason reason, std::string_view text);
  void end_all(Reason reason, std::string_view text);

  [[nodiscard]] size_t count() const { return count_; }
  // Goes through the connections in pieces (base/walk_list.h).
  using Walk = WalkList<Connection>::Walk;
  [[nodiscard]] WalkList<Connection>& all() { return all_; }
  // So many a piece: with ten thousand connections, what is ready waits for these and not for all.
  static constexpr size_t kPiece = 64;

 private:
  Connection& enter(Connection* connection);
  void remove(Connection& connection);
  void count_some();
  void note_times(const Connection& connection);

  [[no_unique_address]] ThreadChecker thread_;
  Worker& worker_;
  std::atomic<uint32_t>& in_pod_;
  WalkList<Connection> all_;
  size_t count_ = 0;
  Walk counted_, killed_;
  Timer count_timer_;
};

}  // namespace zt::ztunnel
