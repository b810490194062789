#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "handover/wire.h"

namespace zt::handover {

// The first message of both sides. Two of different networks, nodes or trust domains do not serve the same pods, whatever their sockets say.
struct Hello {
  uint16_t lowest_format = 0, highest_format = 0;
  std::string build;  // for people
  std::string network, trust_domain, node;
  std::vector<std::string> pods;  // uids that it serves
  uint32_t descriptors_free = 0;  // that it can open yet
};

[[nodiscard]] SecretBytes encode(const Hello& hello);
// What later releases add behind what is known here is passed over.
Result<Hello> decode_hello(std::span<const uint8_t> bytes);
// The format to speak: the highest that both know. Errors (kInvalidInput) name the difference.
Result<uint16_t> agree(const Hello& ours, const Hello& theirs);

}  // namespace zt::handover
