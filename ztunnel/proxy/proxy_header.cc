#include "ztunnel/proxy/proxy_header.h"

#include <cstdint>

namespace zt::ztunnel {

namespace {

constexpr std::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr char kVersion2Proxy = 0x21;
constexpr char kTcp4 = 0x11, kTcp6 = 0x21, kUnspecified = 0x00;
constexpr char kIdentityTlv = static_cast<char>(0xd0);
constexpr size_t kMaxIdentityBytes = 8192;

void append_u16(std::string& out, size_t number) {
  out += static_cast<char>(number >> 8);
  out += static_cast<char>(number & 0xff);
}

void append_ip(std::string& out, const IpAddress& ip) {
  const auto bytes = ip.bytes();
  out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

std::string render_proxy_header(const SocketAddress& source, const SocketAddress& destination, std::string_view identity) {
  std::string body;
  char family = kUnspecified;
  if (source.ip.is_v4() == destination.ip.is_v4()) {
    family = source.ip.is_v4() ? kTcp4 : kTcp6;
    append_ip(body, source.ip);
    append_ip(body, destination.ip);
    append_u16(body, source.port);
    append_u16(body, destination.port);
  }
  if (!identity.empty() && identity.size() <= kMaxIdentityBytes) {
    body += kIdentityTlv;
    append_u16(body, identity.size());
    body += identity;
  }
  std::string header(kSignature);
  header += kVersion2Proxy;
  header += family;
  append_u16(header, body.size());
  return header + body;
}

}  // namespace zt::ztunnel
