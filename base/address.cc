#include "base/address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/host_port.h"
#include "base/text.h"

namespace zt {

IpAddress IpAddress::v4(uint32_t host_order) {
  const std::array<uint8_t, 4> bytes{static_cast<uint8_t>(host_order >> 24), static_cast<uint8_t>(host_order >> 16),
                                     static_cast<uint8_t>(host_order >> 8), static_cast<uint8_t>(host_order)};
  return v4(std::span<const uint8_t, 4>(bytes));
}

IpAddress IpAddress::v4(std::span<const uint8_t, 4> bytes) {
  IpAddress address;
  std::copy(bytes.begin(), bytes.end(), address.bytes_.begin());
  return address;
}

IpAddress IpAddress::v6(std::span<const uint8_t, 16> bytes) {
  static constexpr std::array<uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (std::equal(kMapped.begin(), kMapped.end(), bytes.begin())) return v4(bytes.subspan<12, 4>());
  IpAddress address;
  std::copy(bytes.begin(), bytes.end(), address.bytes_.begin());
  address.is_v4_ = false;
  return address;
}

std::optional<IpAddress> IpAddress::from_bytes(std::span<const uint8_t> bytes) {
  if (bytes.size() == 4) return v4(bytes.first<4>());
  if (bytes.size() == 16) return v6(bytes.first<16>());
  return std::nullopt;
}

std::optional<IpAddress> IpAddress::from_bytes(std::string_view bytes) {
  return from_bytes(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
}

namespace {

// The 4 or 16 bytes that the text stands for, in its own family; none if it is no address.
size_t bytes_of(std::string_view text, std::array<uint8_t, 16>& bytes) {
  char buffer[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof buffer || text.find('\0') != std::string_view::npos) return 0;
  *std::copy(text.begin(), text.end(), buffer) = '\0';
  if (inet_pton(AF_INET, buffer, bytes.data()) == 1) return 4;
  return inet_pton(AF_INET6, buffer, bytes.data()) == 1 ? 16 : 0;
}

}  // namespace

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  std::array<uint8_t, 16> bytes{};
  return from_bytes(std::span<const uint8_t>(bytes).first(bytes_of(text, bytes)));
}

bool IpAddress::is_loopback() const {
  if (is_v4_) return bytes_[0] == 127;
  return std::all_of(bytes_.begin(), bytes_.end() - 1, [](uint8_t byte) { return byte == 0; }) && bytes_[15] == 1;
}

bool IpAddress::is_unspecified() const {
  return std::all_of(bytes_.begin(), bytes_.end(), [](uint8_t byte) { return byte == 0; });
}

std::string IpAddress::to_string() const {
  char buffer[INET6_ADDRSTRLEN];
  if (!is_v4_) return inet_ntop(AF_INET6, bytes_.data(), buffer, sizeof buffer);
  // For IPv4 that would be printf, which was a sixth of what a decision about a connection costs.
  char* end = buffer;
  for (const uint8_t byte : std::span(bytes_).first(4)) {
    if (end != buffer) *end++ = '.';
    end = std::to_chars(end, std::end(buffer), unsigned{byte}).ptr;
  }
  return {buffer, end};
}

std::optional<SocketAddress> SocketAddress::parse(std::string_view text) {
  const auto parts = split_host_port(text);
  const auto ip = parts ? IpAddress::parse(parts->host) : std::nullopt;
  if (!ip) return std::nullopt;
  return SocketAddress{*ip, parts->port};
}

SocketAddress SocketAddress::from_sockaddr(const sockaddr_storage& storage) {
  if (storage.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(storage);
    return {IpAddress::v4(ntohl(in.sin_addr.s_addr)), ntohs(in.sin_port)};
  }
  if (storage.ss_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(storage);
    return {IpAddress::v6(std::span<const uint8_t, 16>(in6.sin6_addr.s6_addr)), ntohs(in6.sin6_port)};
  }
  return {};
}

socklen_t SocketAddress::to_sockaddr(sockaddr_storage& storage, bool as_v6) const {
  storage = {};
  if (ip.is_v4() && !as_v6) {
    auto& in = reinterpret_cast<sockaddr_in&>(storage);
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, ip.bytes().data(), 4);
    return sizeof in;
  }
  auto& in6 = reinterpret_cast<sockaddr_in6&>(storage);
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(port);
  if (ip.is_v4()) {
    in6.sin6_addr.s6_addr[10] = in6.sin6_addr.s6_addr[11] = 0xff;
    std::memcpy(&in6.sin6_addr.s6_addr[12], ip.bytes().data(), 4);
  } else {
    std::memcpy(&in6.sin6_addr, ip.bytes().data(), 16);
  }
  return sizeof in6;
}

std::string SocketAddress::to_string() const {
  return (ip.is_v4() ? ip.to_string() : "[" + ip.to_string() + "]") + ":" + std::to_string(port);
}

std::optional<Cidr> Cidr::make(IpAddress base, uint32_t prefix_length) {
  if (prefix_length > (base.is_v4() ? 32u : 128u)) return std::nullopt;
  return Cidr{base, static_cast<uint8_t>(prefix_length)};
}

std::optional<Cidr> Cidr::from_bytes(std::span<const uint8_t> bytes, uint32_t prefix_length) {
  constexpr uint32_t kMappedBits = 96;
  const auto base = IpAddress::from_bytes(bytes);
  if (!base) return std::nullopt;
  const bool mapped = base->is_v4() && bytes.size() == 16;
  if (mapped && (prefix_length < kMappedBits || prefix_length > 128)) return std::nullopt;
  return make(*base, mapped ? prefix_length - kMappedBits : prefix_length);
}

std::optional<Cidr> Cidr::parse(std::string_view text) {
  const auto slash = text.find('/');
  std::array<uint8_t, 16> storage{};
  const auto bytes = std::span<const uint8_t>(storage).first(bytes_of(text.substr(0, slash), storage));
  if (slash == std::string_view::npos) return from_bytes(bytes, static_cast<uint32_t>(bytes.size() * 8));
  const auto length = whole_number<uint32_t>(text.substr(slash + 1));
  if (!length) return std::nullopt;
  return from_bytes(bytes, *length);
}

bool Cidr::contains(const IpAddress& address) const {
  if (address.is_v4() != base.is_v4()) return false;
  const auto mine = base.bytes(), theirs = address.bytes();
  const size_t whole = prefix_length / 8, rest = prefix_length % 8;
  if (!std::equal(mine.begin(), mine.begin() + static_cast<ptrdiff_t>(whole), theirs.begin())) return false;
  if (rest == 0) return true;
  const auto mask = static_cast<uint8_t>(0xff << (8 - rest));
  return ((mine[whole] ^ theirs[whole]) & mask) == 0;
}

std::string Cidr::to_string() const { return base.to_string() + "/" + std::to_string(prefix_length); }

}  // namespace zt
