// What an API server sends: a list, a line of a watch, a refusal.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kubernetes/objects.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)zt::kubernetes::parse_list(text);
  (void)zt::kubernetes::parse_event(text);
  (void)zt::kubernetes::parse_object(text);
  (void)zt::kubernetes::parse_status(text);
  return 0;
}
