#pragma once
#include <chrono>
#include <cstdint>

#include "identity/wall_time.h"

// When to renew and when to retry: pure functions of times and a random number. `jitter` is uniform in [-1,
// 1].
namespace zt::identity {

inline constexpr double kRefreshJitter = 0.1;                       // ± of half the lifetime
inline constexpr std::chrono::seconds kMinRefreshDelay{1};          // however short-lived a certificate is
inline constexpr std::chrono::milliseconds kFirstRetryDelay{1000};  // contract §7.5
inline constexpr double kRetryJitter = 0.2;
inline constexpr std::chrono::milliseconds kMaxRetryDelay{150'000};

// How long from `now` until a certificate is renewed: at half its life, earlier or later by up to
// kRefreshJitter so that certificates issued together are not renewed together (contract §14 #12). If that
// has passed already (the CA's clock is behind ours, or the certificate is an old one), half of what remains:
// renewing at once could repeat without end.
[[nodiscard]] std::chrono::milliseconds refresh_delay(WallTime not_before, WallTime not_after, WallTime now, double jitter);

// Wait after the `failures`-th failure in a row (1 = first): 1 s, 2 s, 4 s … each ± kRetryJitter, at most
// kMaxRetryDelay.
[[nodiscard]] std::chrono::milliseconds retry_delay(uint32_t failures, double jitter);

// The same while a connection waits for the retry: 1 s, 2 s, 4 s, then `most`; no jitter, each request is its
// own.
[[nodiscard]] std::chrono::milliseconds real_time_retry_delay(uint32_t failures, std::chrono::milliseconds least,
                                                              std::chrono::milliseconds most);

}  // namespace zt::identity
