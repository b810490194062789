#pragma once
#include <fcntl.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace zt::hbone::testing {

// A secret to look for in the memory of this process. Kept masked, so that it does not find itself.
class Needle {
 public:
  explicit Needle(std::span<const uint8_t> secret) : masked_(secret.begin(), secret.end()) {
    for (uint8_t& byte : masked_) byte ^= kMask;
  }

  // Where in writable memory the secret lies in the clear: heap, stacks, what freed blocks still hold. One place a line,
  // with its mapping as /proc/self/maps has it; empty = nowhere.
  [[nodiscard]] std::string places() const {
    const UniqueFd memory(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
    std::ifstream maps("/proc/self/maps");
    std::vector<uint8_t> window(kWindow);
    std::string found;
    for (std::string line; std::getline(maps, line);) {
      unsigned long begin = 0, end = 0;
      char mode[5] = {};
      if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) != 3 || mode[0] != 'r' || mode[1] != 'w') continue;
      if (end - begin > kLargest) continue;  // a sanitizer's shadow
      // Overlapping by one secret's length, so that none lies across an edge.
      for (unsigned long at = begin; at < end; at += kWindow - masked_.size()) {
        const ssize_t got = ::pread(memory.get(), window.data(), std::min<size_t>(kWindow, end - at), static_cast<off_t>(at));
        if (got <= 0) continue;
        search(std::span(window).first(static_cast<size_t>(got)), at, line, found);
      }
    }
    OPENSSL_cleanse(window.data(), window.size());
    return found;
  }

 private:
  static constexpr uint8_t kMask = 0xa5;
  static constexpr size_t kWindow = 1 << 20;
  static constexpr size_t kLargest = size_t{256} << 20;

  void search(std::span<const uint8_t> bytes, unsigned long at, const std::string& mapping, std::string& found) const {
    const uint8_t first = masked_[0] ^ kMask;
    const uint8_t* const begin = bytes.data();
    const uint8_t* const end = begin + bytes.size();
    // memchr: a loop of our own would take minutes over a sanitizer's memory.
    for (const uint8_t* next = begin;
         next < end && (next = static_cast<const uint8_t*>(std::memchr(next, first, static_cast<size_t>(end - next)))) != nullptr;
         ++next) {
      if (static_cast<size_t>(end - next) < masked_.size()) return;
      const bool equal = std::equal(masked_.begin(), masked_.end(), next,
                                    [](uint8_t masked, uint8_t byte) { return static_cast<uint8_t>(masked ^ kMask) == byte; });
      const unsigned long place = at + static_cast<unsigned long>(next - begin);
      const auto own = reinterpret_cast<unsigned long>(begin);
      if (equal && (place < own || place >= own + kWindow)) {
        char text[32];
        std::snprintf(text, sizeof text, "%lx in ", place);
        found += text + mapping + "\n";
      }
    }
  }

  std::vector<uint8_t> masked_;
};

}  // namespace zt::hbone::testing
