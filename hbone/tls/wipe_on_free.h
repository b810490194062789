#pragma once

namespace zt::hbone {

// While one lives, what this thread frees of OpenSSL's memory is wiped first. SSL_free() gives the handshake's and the traffic
// secrets back to the heap as they are (OpenSSL 3.0 to 3.5); with this around it nothing of them stays. Costs about 2 µs of a
// handshake. Thread: the one that frees.
class WipeOnFree {
 public:
  WipeOnFree();
  ~WipeOnFree();
  WipeOnFree(const WipeOnFree&) = delete;
  WipeOnFree& operator=(const WipeOnFree&) = delete;

  // False if something had allocated before us, so that OpenSSL frees by itself.
  [[nodiscard]] static bool in_force();

 private:
  const bool before_;
};

}  // namespace zt::hbone
