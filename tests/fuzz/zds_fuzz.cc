// Every decoder of ZDS, fed the same bytes: none may crash, and what one accepts must survive its own
// encoder.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "zds/zds.h"

using namespace zt::zds;

namespace {
void require(bool holds) {
  if (!holds) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto hello = decode_hello(bytes)) require(decode_hello(encode(*hello)) == *hello);
  if (const auto request = decode_request(bytes)) {
    const auto again = decode_request(encode(*request));
    require(again && *again == *request);
  }
  if (auto ack = decode_ack(bytes)) {
    const auto again = decode_ack(encode(*ack));
    require(again && (*again == *ack || ack->error.size() > kMaxAckText));
  }
  return 0;
}
