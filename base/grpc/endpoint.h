#pragma once
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "base/credential_source.h"
#include "base/result.h"

namespace grpc {
class Channel;
}

// gRPC towards a server that we depend on: how it is reached and what every call carries.
// Headers of gRPC are not needed to use this one.
namespace zt::rpc {

// For looking up the name, and again for TCP connect and TLS handshake of each address together: gRPC has one
// limit for both.
inline constexpr std::chrono::seconds kConnectLimit{5};
// A connection on which nothing came for the first time is asked for life, and is dead if it does not answer
// within the second. These PINGs do what TCP keepalive (300/75/9 in the peer) would do much later; gRPC
// offers no way to set that.
inline constexpr std::chrono::seconds kKeepaliveInterval{30};
inline constexpr std::chrono::seconds kKeepaliveTimeout{10};
// Pause between attempts of a channel that stays (the CA's): bounds both how often a dead server is tried and
// how long a server that is back goes unnoticed.
inline constexpr std::chrono::milliseconds kReconnectPauseMin{250};
inline constexpr std::chrono::milliseconds kReconnectPauseMax{1000};

inline constexpr size_t kMaxRootBytes = 4u << 20;
inline constexpr size_t kMaxTokenBytes = 64u << 10;

// What a call proves itself with: a bearer token, and what goes with it and not without.
struct CallCredentials {
  Token token;
  HeaderList with_token;
};

struct EndpointOptions {
  std::string address;  // "https://host:port"
  Roots roots;
  std::optional<std::string> alt_hostname;  // another name that the server's certificate may have
  CallCredentials credentials;
  HeaderList headers;
  size_t max_message_bytes = 4u << 20;
};

// Immutable; any thread, but the functions that read files block.
class Endpoint {
 public:
  // kInvalidInput, with what is wrong: an address of another form, a header that gRPC would refuse.
  static Result<Endpoint> make(EndpointOptions options);

  [[nodiscard]] const std::string& address() const { return options_.address; }
  [[nodiscard]] bool by_name() const;  // its host is a name and no literal address
  [[nodiscard]] Roots::Source roots_source() const { return options_.roots.source; }

  // The roots as PEM text, as they are now: at least one certificate in it. An error names the file.
  [[nodiscard]] Result<std::string> read_roots() const;

  // A channel of its own, which shares no connection with others: TLS with these roots, ALPN h2, the server's
  // certificate must have the address's host or the alternative name. It connects with the first call.
  [[nodiscard]] std::shared_ptr<grpc::Channel> open_channel(const std::string& roots_pem) const;

  // What each call carries: the credentials if there is a token (its file is read now; an empty one is an error), and the extra
  // headers. Holds the secret: not for logs.
  [[nodiscard]] Result<HeaderList> call_headers() const;

 private:
  explicit Endpoint(EndpointOptions options) : options_(std::move(options)) {}
  EndpointOptions options_;
  std::string host_;       // without port and brackets
  std::string authority_;  // host:port
};

// Names are resolved by the system's resolver (nsswitch, /etc/hosts, search domains) instead of gRPC's own, which asks
// name servers for an AAAA record even where /etc/hosts has the address: 5 s before each first call where no name server
// answers. The choice is read from the environment when gRPC starts, so: at the start of main(), before other threads.
void use_system_resolver();

// Sends gRPC's own log lines to the scope "grpc" at level debug; by default they would go to stderr. Once per
// process.
void adopt_grpc_log();

// "UNAVAILABLE" for 14, and so on.
[[nodiscard]] std::string status_name(int code);

}  // namespace zt::rpc
