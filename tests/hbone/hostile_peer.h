#pragma once
// Peers that break HTTP/2 or TLS, by hand-made frames and records.
#include <catch2/catch.hpp>

#include "mesh/reason.h"
#include "tests/hbone/tunnel_pair.h"

namespace zt::hbone::testing {

using namespace std::chrono_literals;

inline std::string frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
  std::string out;
  const auto size = static_cast<uint32_t>(payload.size());
  for (int shift : {16, 8, 0}) out += static_cast<char>(size >> shift);
  out += static_cast<char>(type);
  out += static_cast<char>(flags);
  for (int shift : {24, 16, 8, 0}) out += static_cast<char>(stream >> shift);
  out += payload;
  return out;
}
inline constexpr uint8_t kData = 0, kHeaders = 1, kRst = 3, kSettings = 4, kPing = 6, kGoaway = 7, kWindowUpdate = 8,
                         kContinuation = 9;
inline constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// HPACK literals without indexing, names in full.
inline std::string literal(std::string_view name, std::string_view value) {
  const auto length = [](size_t size) {
    std::string out;
    if (size < 127) return std::string(1, static_cast<char>(size));
    out += static_cast<char>(127);
    for (size -= 127; size >= 128; size /= 128) out += static_cast<char>(size % 128 + 128);
    return out + static_cast<char>(size);
  };
  return std::string(1, '\0') + length(name.size()) + std::string(name) + length(value.size()) + std::string(value);
}
inline std::string connect_block() { return literal(":method", "CONNECT") + literal(":authority", "10.0.0.1:80"); }

struct TestWorker {
  EventLoop loop;
  MemoryLimit memory{16 << 20};
  WorkerIo io{loop, memory};
};

// One end of a tunnel's connection, with the right keys and hand-made frames.
struct HandMade {
  std::shared_ptr<TestWorker> worker;
  EventLoop& loop;
  WorkerIo& io;
  UniqueFd fd;
  TlsEstablished tls;
  std::vector<uint8_t> raw;
  std::string received;  // decrypted
  bool ended = false;

  HandMade(std::shared_ptr<TestWorker> on, TlsEstablished keys)
      : worker(std::move(on)), loop(worker->loop), io(worker->io), tls(std::move(keys)) {}
  void write_raw(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
      } else if (errno == EAGAIN) {
        loop.run_once(1ms);
        drain();
      } else {
        return;  // it has closed on us
      }
    }
  }
  void write(std::string_view plain) { write_raw(seal(plain)); }
  std::string seal(std::string_view plain) {
    std::string sealed;
    while (!plain.empty()) {
      const auto part = plain.substr(0, kMaxPlaintext);
      std::vector<uint8_t> record(part.size() + kRecordOverhead);
      memcpy(record.data() + kRecordHeader, part.data(), part.size());
      REQUIRE(tls.sealer.seal_in_place(record.data(), part.size(), ContentType::kApplicationData));
      sealed.append(reinterpret_cast<char*>(record.data()), record.size());
      plain.remove_prefix(part.size());
    }
    return sealed;
  }
  void drain() {
    uint8_t buffer[65536];
    for (;;) {
      const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
      if (n == 0 || (n < 0 && errno != EAGAIN)) ended = true;
      if (n <= 0) break;
      raw.insert(raw.end(), buffer, buffer + n);
    }
    size_t used = 0;
    while (auto opened = tls.opener.open(std::span(raw).subspan(used))) {
      if (opened->kind == OpenedRecord::Kind::kIncomplete) break;
      used += opened->consumed;
      received.append(reinterpret_cast<const char*>(opened->data.data()), opened->data.size());
      if (opened->kind == OpenedRecord::Kind::kClosed) break;
    }
    raw.erase(raw.begin(), raw.begin() + static_cast<ptrdiff_t>(used));
  }
  bool run(const std::function<bool()>& until) {
    return loop.run_until(
        [&] {
          drain();
          return until();
        },
        10s);
  }
  // The payload of the last frame of a type; empty if none came.
  std::string last(uint8_t type) const {
    std::string found;
    for (size_t at = 0; at + 9 <= received.size();) {
      const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(received[at + i])); };
      const size_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
      if (byte(3) == type) found = received.substr(at + 9, size);
      at += 9 + size;
    }
    return found;
  }
  // Frames of a type in what came, with the payload's size within bounds.
  size_t count(uint8_t type) const {
    size_t found = 0;
    for (size_t at = 0; at + 9 <= received.size();) {
      const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(received[at + i])); };
      if (byte(3) == type) ++found;
      at += 9 + (byte(0) << 16 | byte(1) << 8 | byte(2));
    }
    return found;
  }
};

// A server tunnel and, at the other end of its socket, this test with the right keys and the wrong manners.
struct Hostile : HandMade {
  TunnelConfig config;
  ServerEnd server;

  explicit Hostile(TunnelConfig settings) : Hostile(0, std::make_shared<TestWorker>(), settings) {}
  explicit Hostile(uint64_t records = 0, std::shared_ptr<TestWorker> on = std::make_shared<TestWorker>(),
                   TunnelConfig settings = {})
      : HandMade(std::move(on), established(false, records)), config(settings) {
    auto [a, b] = tcp_pair();
    fd = std::move(a);
    auto started =
        Tunnel::start(io, io.budget, Tunnel::Role::kServer, std::move(b), established(true, records), {}, config, server);
    REQUIRE(started);
    server.tunnel = std::move(*started);
  }
  void hello() { write(std::string(kPreface) + frame(kSettings, 0, 0, "")); }
};

}  // namespace zt::hbone::testing
