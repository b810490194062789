#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace zt {

// An IPv4 or IPv6 address, always canonical: a v4-mapped v6 address *is* the IPv4 address (contract §1.5). 17 bytes of plain data.
class IpAddress {
 public:
  constexpr IpAddress() = default;  // IPv4 0.0.0.0
  static IpAddress v4(uint32_t host_order);
  static IpAddress v4(std::span<const uint8_t, 4> bytes);
  static IpAddress v6(std::span<const uint8_t, 16> bytes);  // maps ::ffff:a.b.c.d to IPv4
  // 4 or 16 network-order bytes, as the workload API carries them; anything else is nothing.
  static std::optional<IpAddress> from_bytes(std::span<const uint8_t> bytes);
  static std::optional<IpAddress> from_bytes(std::string_view bytes);
  static std::optional<IpAddress> parse(std::string_view text);

  [[nodiscard]] bool is_v4() const { return is_v4_; }
  [[nodiscard]] bool is_v6() const { return !is_v4_; }
  [[nodiscard]] bool is_loopback() const;
  [[nodiscard]] bool is_unspecified() const;
  [[nodiscard]] std::span<const uint8_t> bytes() const { return {bytes_.data(), is_v4_ ? 4u : 16u}; }
  [[nodiscard]] std::string to_string() const;

  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;
  friend bool operator==(const IpAddress&, const IpAddress&) = default;

 private:
  std::array<uint8_t, 16> bytes_{};  // IPv4 uses the first four, the rest stay 0
  bool is_v4_ = true;
};

// IP and port; ports are in host order.
struct SocketAddress {
  IpAddress ip;
  uint16_t port = 0;

  static std::optional<SocketAddress> parse(std::string_view text);  // "1.2.3.4:80", "[2001:db8::1]:80"
  static SocketAddress from_sockaddr(const sockaddr_storage& storage);
  // Fills storage, returns its length. `as_v6` writes an IPv4 address v4-mapped, for sockets of family AF_INET6.
  socklen_t to_sockaddr(sockaddr_storage& storage, bool as_v6 = false) const;
  [[nodiscard]] std::string to_string() const;

  friend auto operator<=>(const SocketAddress&, const SocketAddress&) = default;
  friend bool operator==(const SocketAddress&, const SocketAddress&) = default;
};

// Address block. A v4 block never contains a v6 address and vice versa (contract §5.3).
struct Cidr {
  IpAddress base;
  uint8_t prefix_length = 0;  // 0..32 or 0..128

  static std::optional<Cidr> make(IpAddress base, uint32_t prefix_length);  // nothing if the length is out of range
  // The length counts in the form that was given, bytes or text: a v4-mapped IPv6 block of 96 or more bits is the IPv4 block of 96
  // bits less, a shorter one is none of either family. Nothing if address or length are malformed or out of range.
  static std::optional<Cidr> from_bytes(std::span<const uint8_t> bytes, uint32_t prefix_length);
  static std::optional<Cidr> parse(std::string_view text);  // "10.0.0.0/8"; a bare address is a full-length block
  [[nodiscard]] bool contains(const IpAddress& address) const;
  [[nodiscard]] std::string to_string() const;

  friend auto operator<=>(const Cidr&, const Cidr&) = default;
  friend bool operator==(const Cidr&, const Cidr&) = default;
};

}  // namespace zt

template <>
struct std::hash<zt::IpAddress> {
  size_t operator()(const zt::IpAddress& address) const noexcept {
    const auto bytes = address.bytes();
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
};
template <>
struct std::hash<zt::SocketAddress> {
  size_t operator()(const zt::SocketAddress& address) const noexcept {
    return std::hash<zt::IpAddress>{}(address.ip) * 31 + address.port;
  }
};
