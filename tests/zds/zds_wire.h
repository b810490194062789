#pragma once
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "tests/support/netns/testing.h"
#include "zds/zds_socket.h"

// One end of a ZDS connection played by the test, byte by byte, while the loop runs the other end.
namespace zt::testing {

class Wire {
 public:
  static constexpr std::chrono::seconds kLimit{5};

  Wire(EventLoop& loop, UniqueFd socket) : loop_(loop), socket_(std::move(socket)) {}
  // Connects to a listening agent.
  static Wire to_agent(EventLoop& loop, const std::string& path) {
    auto socket = zds::connect_zds(path);
    INFO(error_text(socket));
    REQUIRE(socket);
    return {loop, std::move(*socket)};
  }

  void send(std::string_view bytes, int fd = -1) {
    const auto sent = zds::send_packet(socket_.get(), bytes, fd);
    REQUIRE(sent);
    REQUIRE(*sent);
  }
  void hello() { send(encode(zds::ZdsHello{})); }
  void ack(std::string error = {}) { send(encode(zds::WorkloadAck{std::move(error)})); }

  // The next packet; must come.
  zds::ZdsPacket receive() {
    auto packet = try_receive(kLimit);
    REQUIRE(packet);
    return std::move(*packet);
  }
  // Nothing if none comes within the limit.
  std::optional<zds::ZdsPacket> try_receive(std::chrono::milliseconds limit) {
    // In short turns: the loop does not know this socket and would sleep through its packets.
    const auto deadline = Clock::now() + limit;
    for (;;) {
      auto received = zds::receive_packet(socket_.get());
      if (!received) return zds::ZdsPacket{};  // reset: as good as the end
      if (*received) return std::move(**received);
      if (Clock::now() >= deadline) return std::nullopt;
      loop_.run_once(std::chrono::milliseconds(1));
    }
  }
  bool closed() {
    const auto packet = try_receive(kLimit);
    return !packet || packet->end_of_stream();
  }
  // The next request, in short: "add u", "keep u", "del u", "snapshot_sent". Its descriptor is kept in
  // last_fd.
  std::string request() {
    zds::ZdsPacket packet = receive();
    if (packet.end_of_stream()) return "closed";
    const auto decoded = zds::decode_request(packet.bytes);
    INFO(error_text(decoded));
    REQUIRE(decoded);
    REQUIRE(check_fd_rule(*decoded, static_cast<bool>(packet.fd)));
    last_fd = std::move(packet.fd);
    if (const auto* add = std::get_if<zds::AddWorkload>(&*decoded)) {
      last_info = add->info.value_or(PodName{});
      return "add " + add->uid;
    }
    if (const auto* keep = std::get_if<zds::KeepWorkload>(&*decoded)) return "keep " + keep->uid;
    if (const auto* del = std::get_if<zds::DelWorkload>(&*decoded)) return "del " + del->uid;
    return "snapshot_sent";
  }
  // Hello, then accepts everything up to the end of the snapshot; returns the requests.
  std::vector<std::string> take_snapshot() {
    hello();
    std::vector<std::string> requests;
    do {
      requests.push_back(request());
      ack();
    } while (requests.back() != "snapshot_sent");
    return requests;
  }
  // No request is on its way: turns of the loop that find nothing to do.
  bool silent() { return !try_receive(std::chrono::milliseconds(50)); }
  void close() { socket_.reset(); }
  [[nodiscard]] bool open() const { return static_cast<bool>(socket_); }

  UniqueFd last_fd;
  PodName last_info;

 private:
  EventLoop& loop_;
  UniqueFd socket_;
};

}  // namespace zt::testing
