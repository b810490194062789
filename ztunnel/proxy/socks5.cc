#include "ztunnel/proxy/socks5.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/text.h"
#include "mesh/reason.h"

namespace zt::ztunnel::socks5 {

using namespace std::string_view_literals;

namespace {

constexpr uint8_t kVersion = 5, kVersion4 = 4;
constexpr uint8_t kNoAuthentication = 0;
constexpr uint8_t kConnect = 1, kBind = 2, kAssociate = 3;
constexpr uint8_t kIpv4 = 1, kName = 3, kIpv6 = 4;

constexpr std::string_view kMethodChosen = "\x05\x00"sv;
constexpr std::string_view kNoMethod = "\x05\xff"sv;
constexpr std::string_view kRejected4 = "\x00\x5b\x00\x00\x00\x00\x00\x00"sv;  // SOCKS4: rejected or failed

// Letters, digits, '-' and '_' in labels of 1 to 63 bytes.
bool is_host_name(std::string_view name) {
  if (name.empty() || name.size() > kMostNameBytes) return false;
  size_t label = 0;
  for (const char c : name) {
    if (c == '.') {
      if (std::exchange(label, 0) == 0) return false;
    } else if ((!is_alnum(c) && c != '-' && c != '_') || ++label > 63) {
      return false;
    }
  }
  return label > 0;
}

}  // namespace

std::string_view render(Reply reply) {
  static constexpr auto kAll = [] {
    std::array<std::array<char, 10>, 9> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = {kVersion, static_cast<char>(i), 0, kIpv4, 0, 0, 0, 0, 0, 0};
    return all;
  }();
  const auto& bytes = kAll[static_cast<size_t>(reply)];
  return {bytes.data(), bytes.size()};
}

Reply reply_for(const Error& why) {
  const auto says = [&](int error) { return why.text.contains(errno_text(error)); };
  switch (why.reason) {
    case Reason::kPolicyDenied:
    case Reason::kPolicyUnknown:
    case Reason::kRecursiveCall:
    case Reason::kConnectionLimit: return Reply::kNotAllowed;
    case Reason::kConnectFailed:
      if (says(ENETUNREACH) || says(EADDRNOTAVAIL) || says(EAFNOSUPPORT)) return Reply::kNetworkUnreachable;
      return says(EHOSTUNREACH) ? Reply::kHostUnreachable : Reply::kRefused;
    case Reason::kConnectStatus:
      // 401 and 403: a policy over there. Else it could not reach its application.
      return why.text.contains(" 40") ? Reply::kNotAllowed : Reply::kRefused;
    case Reason::kConnectTimeout:
    case Reason::kNetworkPolicy:
    case Reason::kNotFound:
    case Reason::kNoUpstream:
    case Reason::kNoRoute:
    case Reason::kNoService: return Reply::kHostUnreachable;
    default: return Reply::kGeneralFailure;
  }
}

void Conversation::refuse(std::string_view answer, std::string why) {
  output_ = answer;
  refusal_ = std::move(why);
  wanted_ = 0;
}

void Conversation::take(std::span<const uint8_t> bytes) {
  output_ = {};
  switch (step_) {
    case Step::kGreeting:
      if (bytes[0] == kVersion4) return refuse(kRejected4, "socks: version 4 is not spoken");
      if (bytes[0] != kVersion) return refuse({}, fmt::format("socks: not a greeting, it begins with byte {}", bytes[0]));
      if (bytes[1] == 0) return refuse(kNoMethod, "socks: no authentication method is offered");
      return next(Step::kMethods, bytes[1]);
    case Step::kMethods:
      if (std::ranges::find(bytes, kNoAuthentication) == bytes.end())
        return refuse(kNoMethod, "socks: only clients without authentication are served");
      output_ = kMethodChosen;
      return next(Step::kRequest, 4);
    case Step::kRequest: return take_request(bytes);
    case Step::kNameLength:
      if (bytes[0] == 0) return refuse(render(Reply::kGeneralFailure), "socks: the name is empty");
      return next(Step::kAddress, bytes[0] + 2u);
    case Step::kAddress: return take_address(bytes);
  }
}

void Conversation::take_request(std::span<const uint8_t> bytes) {
  if (bytes[0] != kVersion)
    return refuse(render(Reply::kGeneralFailure), fmt::format("socks: version {} in a request", bytes[0]));
  if (bytes[1] != kConnect) {
    const std::string_view command = bytes[1] == kBind ? "BIND"sv : bytes[1] == kAssociate ? "UDP ASSOCIATE"sv : "this"sv;
    return refuse(render(Reply::kCommandNotSupported), fmt::format("socks: {} is not served (command {})", command, bytes[1]));
  }
  by_name_ = bytes[3] == kName;
  switch (bytes[3]) {
    case kIpv4: return next(Step::kAddress, 4 + 2);
    case kIpv6: return next(Step::kAddress, 16 + 2);
    case kName: return next(Step::kNameLength, 1);
    default: return refuse(render(Reply::kAddressTypeNotSupported), fmt::format("socks: there is no address type {}", bytes[3]));
  }
}

void Conversation::take_address(std::span<const uint8_t> bytes) {
  const auto host = bytes.first(bytes.size() - 2), port = bytes.last(2);
  Request request{.host = {}, .port = static_cast<uint16_t>(port[0] << 8 | port[1])};
  if (!by_name_) {
    request.host = *IpAddress::from_bytes(host);
  } else {
    std::string name = lower_text({reinterpret_cast<const char*>(host.data()), host.size()});
    // Some clients write addresses as names.
    if (const auto ip = IpAddress::parse(name)) {
      request.host = *ip;
    } else {
      if (name.ends_with('.')) name.pop_back();
      if (!is_host_name(name)) return refuse(render(Reply::kGeneralFailure), "socks: the name is not a host name");
      request.host = std::move(name);
    }
  }
  // To the kernel that address means ourselves.
  if (const auto* ip = std::get_if<IpAddress>(&request.host); ip != nullptr && ip->is_unspecified())
    return refuse(render(Reply::kNotAllowed), "socks: 0.0.0.0 and :: are nobody's addresses");
  if (request.port == 0) return refuse(render(Reply::kNotAllowed), "socks: there is no port 0");
  request_ = std::move(request);
  wanted_ = 0;
}

}  // namespace zt::ztunnel::socks5
