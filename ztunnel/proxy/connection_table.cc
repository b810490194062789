#include "ztunnel/proxy/connection_table.h"

namespace zt::ztunnel {

namespace {
// How far the byte metrics of a long connection lag behind.
constexpr std::chrono::seconds kCountInterval{5};
}  // namespace

Connection& ConnectionTable::add(ConnectionInfo info) {
  if (!count_timer_.armed()) count_timer_.start_after(kCountInterval, [this] { count_bytes(); });
  auto* connection = new Connection(worker_, std::move(info));
  places_.push_front(*connection);
  ++count_;
  return *connection;
}

void ConnectionTable::remove(Connection& connection) {
  if (connection.relay) {
    const RelayEnd& end = connection.relay->end();
    connection.record.finish(end.reason, end.text, connection.relay->bytes());
  }
  --count_;
  delete &connection;
}

void ConnectionTable::end(Connection& connection, const Error& why) {
  connection.record.finish(why.reason, why.text, connection.relay ? connection.relay->bytes() : RelayBytes{});
  --count_;
  delete &connection;
}

void ConnectionTable::count_bytes() {
  for (TablePlace& place : places_) {
    if (Connection* connection = connection_at(place); connection != nullptr && connection->relay)
      connection->record.progress(connection->relay->bytes());
  }
  if (count_ > 0) count_timer_.start_after(kCountInterval, [this] { count_bytes(); });
}

void ConnectionTable::kill_all(Reason reason, const std::string& text) {
  for (TablePlace& place : places_) {
    if (Connection* connection = connection_at(place); connection != nullptr && connection->relay)
      connection->relay->kill(reason, text);
  }
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

PodConnections ConnectionTable::lines() const {
  PodConnections lines;
  for (const TablePlace& place : places_) {
    if (place.kind_ != TablePlace::Kind::kConnection) continue;
    const ConnectionInfo& info = static_cast<const Connection&>(place).record.info();
    const bool inbound = info.direction == Direction::kInbound;
    (inbound ? lines.inbound : lines.outbound)
        .push_back({.source = info.source,
                    .original_destination = inbound ? info.requested_host : info.upstream.to_string(),
                    .actual_destination = inbound ? info.upstream : info.destination,
                    .protocol = info.mutual_tls ? "HBONE" : "TCP"});
  }
  return lines;
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
