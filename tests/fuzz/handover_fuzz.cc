// Reads a unit of a hand-over as a successor does. What can be read is written as it was read.
#include <cstdlib>

#include "handover/hello.h"
#include "handover/unit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zt::handover;
  const std::span<const uint8_t> bytes(data, size);
  (void)decode_hello(bytes);
  const auto unit = decode(bytes, kHighestFormat);
  if (!unit) return 0;
  (void)descriptors(*unit);
  const SecretBytes written = encode(*unit);
  const auto again = decode(written, kHighestFormat);
  // Not the same bytes, for a certificate or a name may be written in more ways than one; but the same unit.
  if (!again || encode(*again) != written) std::abort();
  return 0;
}
