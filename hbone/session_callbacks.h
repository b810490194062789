#pragma once
#include <nghttp2/nghttp2.h>

#include <array>
#include <cstdint>
#include <memory>

#include "hbone/tunnel_config.h"

// How a Session's nghttp2 session is set up: what it is told to do by itself, and what it asks or tells ours.
namespace zt::hbone {

struct FreeSessionOptions {
  void operator()(nghttp2_option* options) const { nghttp2_option_del(options); }
};
using SessionOptions = std::unique_ptr<nghttp2_option, FreeSessionOptions>;
[[nodiscard]] SessionOptions session_options(TunnelRole role, const TunnelConfig& config);

// For an nghttp2 session whose user data is its Session, and whose streams' user data are their Streams. Never freed.
[[nodiscard]] const nghttp2_session_callbacks* session_callbacks();

// Where the session takes a stream's DATA from.
[[nodiscard]] nghttp2_data_provider stream_data();

// The PING after a drain's first GOAWAY; those of the keepalive are zeros.
inline constexpr std::array<uint8_t, 8> kGoawayPing{'g', 'o', 'a', 'w', 'a', 'y', '?', '!'};

}  // namespace zt::hbone
