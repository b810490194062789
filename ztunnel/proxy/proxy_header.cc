#include "ztunnel/proxy/proxy_header.h"

#include <cstdint>

namespace zt::ztunnel {

namespace {

constexpr std::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr char kVersion2Proxy = 0x21;
constexpr char kTcp4 = 0x11, kTcp6 = 0x21;
constexpr char kIdentityTlv = static_cast<char>(0xd0), kServiceTlv = static_cast<char>(0xd1);
constexpr size_t kMaxTlvBytes = 8000;
constexpr std::string_view kV4MappedPrefix("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);

void append_u16(std::string& out, size_t number) {
  out += static_cast<char>(number >> 8);
  out += static_cast<char>(number & 0xff);
}

void append_ip(std::string& out, const IpAddress& ip, bool as_v6) {
  if (as_v6 && ip.is_v4()) out += kV4MappedPrefix;
  const auto bytes = ip.bytes();
  out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void append_tlv(std::string& out, char type, std::string_view value) {
  if (value.empty() || value.size() > kMaxTlvBytes) return;
  out += type;
  append_u16(out, value.size());
  out += value;
}

}  // namespace

std::string render_proxy_header(const SocketAddress& source, const SocketAddress& destination, std::string_view identity,
                                std::string_view service) {
  const bool as_v6 = source.ip.is_v6() || destination.ip.is_v6();
  std::string body;
  append_ip(body, source.ip, as_v6);
  append_ip(body, destination.ip, as_v6);
  append_u16(body, source.port);
  append_u16(body, destination.port);
  append_tlv(body, kIdentityTlv, identity);
  append_tlv(body, kServiceTlv, service);
  std::string header(kSignature);
  header += kVersion2Proxy;
  header += as_v6 ? kTcp6 : kTcp4;
  append_u16(header, body.size());
  return header + body;
}

}  // namespace zt::ztunnel
