#include "hbone/tls/wipe_on_free.h"

#include <catch2/catch.hpp>

namespace zt::hbone {
namespace {

// This program links all that the proxy does.
TEST_CASE("what OpenSSL frees with a tunnel's secrets in it is wiped, though gRPC shares the library") {
  CHECK(WipeOnFree::in_force());
}

}  // namespace
}  // namespace zt::hbone
