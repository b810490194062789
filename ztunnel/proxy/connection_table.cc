#include "ztunnel/proxy/connection_table.h"

namespace zt::ztunnel {

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
  places_.push_front(*connection);
  ++count_;
  return *connection;
}

void ConnectionTable::remove(Connection& connection) {
  thread_.check();
  if (connection.relay) {
    const RelayEnd end = connection.relay->end();
    connection.record.finish(end.reason, end.text, connection.relay->bytes());
  }
  --count_;
  delete &connection;
}

void ConnectionTable::end(Connection& connection, const Error& why) {
  thread_.check();
  connection.record.finish(why.reason, why.text, connection.relay ? connection.relay->bytes() : RelayBytes{});
  --count_;
  delete &connection;
}

void ConnectionTable::count_some() {
  if (counted_.done()) counted_.begin(*this);
  for (size_t left = kPiece; left > 0; --left) {
    Connection* const connection = counted_.next();
    if (connection == nullptr) break;
    if (connection->relay) connection->record.progress(connection->relay->bytes());
  }
  if (count_ == 0) return;
  count_timer_.start_after(counted_.done() ? Clock::duration(kCountInterval) : Clock::duration::zero(), [this] { count_some(); });
}

bool ConnectionTable::kill_some(bool anew, Reason reason, const std::string& text) {
  if (anew) killed_.begin(*this);
  for (size_t left = kPiece; left > 0; --left) {
    Connection* const connection = killed_.next();
    if (connection == nullptr) break;
    if (connection->relay) connection->relay->kill(reason, text);
  }
  return killed_.done();
}

void ConnectionTable::end_all(Reason reason, std::string_view text) {
  while (!places_.empty()) {
    TablePlace& place = places_.front();
    if (Connection* connection = connection_at(place)) {
      end(*connection, {reason, std::string(text)});
    } else {
      places_.pop_front();
    }
  }
}

void ConnectionTable::Walk::begin(ConnectionTable& table) {
  unlink();
  table_ = &table;
  table.places_.push_front(*this);
}

Connection* ConnectionTable::Walk::next() {
  if (done()) return nullptr;
  auto place = std::next(List::s_iterator_to(*this));
  unlink();
  for (; place != table_->places_.end(); ++place) {
    if (Connection* connection = connection_at(*place)) {
      table_->places_.insert(std::next(place), *this);
      return connection;
    }
  }
  return nullptr;
}

}  // namespace zt::ztunnel
