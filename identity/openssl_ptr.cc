#include "identity/openssl_ptr.h"

#include <openssl/err.h>

#include <array>
#include <cstdio>

namespace zt::identity {

X509Ptr share(X509* certificate) {
  if (certificate != nullptr) X509_up_ref(certificate);
  return X509Ptr(certificate);
}

PkeyPtr share(EVP_PKEY* key) {
  if (key != nullptr) EVP_PKEY_up_ref(key);
  return PkeyPtr(key);
}

std::string openssl_error_text(std::string_view what) {
  std::string text(what);
  bool first = true;
  while (const unsigned long code = ERR_get_error()) {
    // Only the reason: ERR_error_string's library and function codes tell an operator nothing, and ERR data
    // may hold input.
    const char* reason = ERR_reason_error_string(code);
    std::array<char, 64> number{};
    if (reason == nullptr) {
      std::snprintf(number.data(), number.size(), "error %lx", code);
      reason = number.data();
    }
    text.append(first ? ": " : "; ").append(reason);
    first = false;
  }
  return text;
}

}  // namespace zt::identity
