#include "hbone/tls/wipe_on_free.h"

#include <malloc.h>
#include <openssl/crypto.h>

#include <cstdlib>
#include <utility>

namespace zt::hbone {
namespace {

thread_local bool wiping = false;

void* take(size_t size, const char*, int) { return std::malloc(size); }
// A block that moves is not wiped: within SSL_free() none does.
void* resize(void* block, size_t size, const char*, int) { return std::realloc(block, size); }
void give(void* block, const char*, int) {
  if (wiping && block != nullptr) OPENSSL_cleanse(block, ::malloc_usable_size(block));
  std::free(block);
}

// OpenSSL takes them only before its first allocation, so before main().
bool in_use = false;
[[gnu::constructor]] void use_wiping_free() { in_use = CRYPTO_set_mem_functions(take, resize, give) == 1; }

}  // namespace

WipeOnFree::WipeOnFree() : before_(std::exchange(wiping, true)) {}
WipeOnFree::~WipeOnFree() { wiping = before_; }

bool WipeOnFree::in_force() { return in_use; }

}  // namespace zt::hbone
