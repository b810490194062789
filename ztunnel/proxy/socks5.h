#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/address.h"
#include "base/result.h"

// SOCKS5 (RFC 1928) as far as we serve it: CONNECT without authentication, to an IPv4 or IPv6 address or to a name. No I/O.
namespace zt::ztunnel::socks5 {

inline constexpr size_t kMostNameBytes = 253;

// What the second answer says (RFC 1928 §6).
enum class Reply : uint8_t {
  kSucceeded = 0,
  kGeneralFailure = 1,
  kNotAllowed = 2,
  kNetworkUnreachable = 3,
  kHostUnreachable = 4,
  kRefused = 5,
  kCommandNotSupported = 7,
  kAddressTypeNotSupported = 8,
};

// The answer as the client reads it. The address that it names is 0.0.0.0:0, as the peer's: ours is nobody's business.
[[nodiscard]] std::string_view render(Reply reply);
// What to say of a connection that could not be made.
[[nodiscard]] Reply reply_for(const Error& why);

struct Request {
  std::variant<IpAddress, std::string> host;  // a name: in lower case, without the last dot
  uint16_t port = 0;
};

// The part of the conversation before the connection. It asks for exactly as many bytes as it can tell the next step from, so
// that nothing which the client sends ahead of the answer is taken from the stream.
class Conversation {
 public:
  static constexpr size_t kMostWanted = 257;

  // How many bytes have to come before it goes on. 0: it has ended, with request() or refusal().
  [[nodiscard]] size_t wanted() const { return wanted_; }
  // `bytes`: so many.
  void take(std::span<const uint8_t> bytes);
  // What the client is to be told now; valid until the next take().
  [[nodiscard]] std::string_view output() const { return output_; }

  [[nodiscard]] const std::optional<Request>& request() const { return request_; }
  // Why there is no request; empty if there is one, or may be yet.
  [[nodiscard]] std::string_view refusal() const { return refusal_; }

 private:
  enum class Step : uint8_t { kGreeting, kMethods, kRequest, kNameLength, kAddress };
  void next(Step step, size_t wanted) {
    step_ = step;
    wanted_ = wanted;
  }
  void refuse(std::string_view answer, std::string why);
  void take_request(std::span<const uint8_t> bytes);
  void take_address(std::span<const uint8_t> bytes);

  Step step_ = Step::kGreeting;
  size_t wanted_ = 2;  // version, number of methods
  bool by_name_ = false;
  std::string_view output_;
  std::optional<Request> request_;
  std::string refusal_;
};

}  // namespace zt::ztunnel::socks5
