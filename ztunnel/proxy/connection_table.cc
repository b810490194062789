#include "ztunnel/proxy/connection_table.h"

#include "ztunnel/proxy/live_connections.h"

namespace zt::ztunnel {

// What exists once for each connection, with hbone::Stream, and a peer's account once for each peer; measured. Whoever makes one larger
// says so here.
static_assert(sizeof(Connection) <= 296);
static_assert(sizeof(StreamRelay) <= 264);  // the last 24, and of the next: when its first byte came, and how long it stalled
static_assert(sizeof(SpliceRelay) <= 352);
#ifdef NDEBUG  // else it also knows its thread
static_assert(sizeof(MemoryAccount) <= 160);
#endif

namespace {
// How far the byte metrics of a long connection lag behind.
constexpr std::chrono::seconds kCountInterval{5};
}  // namespace

Connection& ConnectionTable::add(ConnectionInfo info) { return enter(new Connection(worker_, in_pod_, std::move(info))); }

Connection& ConnectionTable::adopt(ConnectionInfo info, const RelayBytes& counted) {
  return enter(new Connection(worker_, in_pod_, std::move(info), counted));
}

void ConnectionTable::forget(Connection& connection) {
  thread_.check();
  connection.record.forget();
  --count_;
  delete &connection;
}

Connection& ConnectionTable::enter(Connection* connection) {
  thread_.check();
  if (!count_timer_.armed()) count_timer_.start_after(kCountInterval, [this] { count_some(); });
  all_.add(*connection);
  ++count_;
  if (worker_.metrics().live.watched()) [[unlikely]]
    show_opened(worker_, connection->record.info());
  return *connection;
}

void ConnectionTable::remove(Connection& connection) {
  thread_.check();
  if (connection.relay) {
    const RelayEnd end = connection.relay->end();
    connection.record.finish(end.reason, end.text, connection.relay->bytes(), &worker_.ended());
    if (worker_.metrics().live.watched()) [[unlikely]]
      show_closed(worker_, connection.record.info(), {end.reason, end.text}, connection.relay->bytes());
    note_times(connection);
  }
  --count_;
  delete &connection;
}

void ConnectionTable::end(Connection& connection, const Error& why) {
  thread_.check();
  const RelayBytes bytes = connection.relay ? connection.relay->bytes() : RelayBytes{};
  connection.record.finish(why.reason, why.text, bytes, &worker_.ended());
  if (worker_.metrics().live.watched()) [[unlikely]]
    show_closed(worker_, connection.record.info(), why, bytes);
  note_times(connection);
  --count_;
  delete &connection;
}

void ConnectionTable::note_times(const Connection& connection) {
  if (!connection.relay) return;
  const ConnectionInfo& info = connection.record.info();
  const Metrics::Times& times = worker_.metrics().times;
  const auto reporter = static_cast<size_t>(info.direction == Direction::kOutbound ? Reporter::kSource : Reporter::kDestination);
  using Seconds = std::chrono::duration<double>;
  if (const auto first = connection.relay->first_byte(); first != Clock::time_point{})
    times.first_byte.at(reporter)->observe(Seconds(first - info.begun).count());
  if (const auto stalled = connection.relay->stalled(); stalled.count() > 0)
    times.stall.at(reporter)->observe(Seconds(stalled).count());
}

void ConnectionTable::count_some() {
  counted_.some(all_, counted_.done(), kPiece, [](Connection& connection) {
    if (connection.relay) connection.record.progress(connection.relay->bytes());
  });
  if (count_ == 0) return;
  count_timer_.start_after(counted_.done() ? Clock::duration(kCountInterval) : Clock::duration::zero(), [this] { count_some(); });
}

bool ConnectionTable::kill_some(bool anew, Reason reason, const std::string& text) {
  return killed_.some(all_, anew, kPiece, [&](Connection& connection) {
    if (connection.relay) connection.relay->kill(reason, text);
  });
}

bool ConnectionTable::end_some(Reason reason, std::string_view text) {
  for (size_t left = kPiece; left > 0 && count_ > 0; --left) end(*all_.front(), {reason, std::string(text)});
  return count_ == 0;
}

void ConnectionTable::end_all(Reason reason, std::string_view text) {
  while (!end_some(reason, text)) {
  }
}

}  // namespace zt::ztunnel
