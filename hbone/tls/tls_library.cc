#include "hbone/tls/tls_library.h"

#include <openssl/core_dispatch.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace zt::hbone {
namespace {

constexpr std::array<std::string_view, 5> kCertificateKeys = {"EC", "RSA", "RSA-PSS", "ED25519", "RSASSA-PSS"};
constexpr std::string_view kKeyExchange = "X25519";

// A provider that passes on the algorithms of another one, which is loaded in a library context of its own:
// all work, and what that work fetches in turn, stays with the original.
class LeanProvider {
 public:
  // One for the process: OpenSSL passes no argument of ours to an init function.
  static LeanProvider& instance() {
    static LeanProvider* const made = new LeanProvider;  // OpenSSL's own clean-up at exit may still call it
    return *made;
  }

  bool load() {
    inner_ = OSSL_LIB_CTX_new();
    original_ = inner_ != nullptr ? OSSL_PROVIDER_load(inner_, "default") : nullptr;
    if (original_ == nullptr) return false;
    int no_store = 0;
    for (const int operation : {OSSL_OP_KEYMGMT, OSSL_OP_DECODER}) {
      auto& kept = operation == OSSL_OP_KEYMGMT ? key_types_ : decoders_;
      const OSSL_ALGORITHM* each = OSSL_PROVIDER_query_operation(original_, operation, &no_store);
      for (; each != nullptr && each->algorithm_names != nullptr; ++each)
        if (wanted(operation, *each)) kept.push_back(*each);
      kept.push_back({});  // ends the list
    }
    return true;
  }

  static int init(const OSSL_CORE_HANDLE*, const OSSL_DISPATCH*, const OSSL_DISPATCH** functions, void** context) {
    static const OSSL_DISPATCH table[] = {{OSSL_FUNC_PROVIDER_QUERY_OPERATION, reinterpret_cast<void (*)()>(query)},
                                          {OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, reinterpret_cast<void (*)()>(gettable_params)},
                                          {OSSL_FUNC_PROVIDER_GET_PARAMS, reinterpret_cast<void (*)()>(get_params)},
                                          {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, reinterpret_cast<void (*)()>(get_capabilities)},
                                          {0, nullptr}};
    *functions = table;
    *context = OSSL_PROVIDER_get0_provider_ctx(instance().original_);  // algorithms get it back
    return 1;
  }

 private:
  static bool wanted(int operation, const OSSL_ALGORITHM& algorithm) {
    const std::string_view names(algorithm.algorithm_names);
    const std::string_view first = names.substr(0, names.find(':'));
    const bool certificate_key = std::ranges::find(kCertificateKeys, first) != kCertificateKeys.end();
    if (operation == OSSL_OP_KEYMGMT) return certificate_key || first == kKeyExchange;
    const std::string_view form(algorithm.property_definition);
    return certificate_key && form.contains("input=der") && form.contains("structure=SubjectPublicKeyInfo");
  }

  static const OSSL_ALGORITHM* query(void*, int operation, int* no_store) {
    LeanProvider& self = instance();
    switch (operation) {
      case OSSL_OP_KEYMGMT: *no_store = 0; return self.key_types_.data();
      case OSSL_OP_DECODER: *no_store = 0; return self.decoders_.data();
      case OSSL_OP_ENCODER:  // nothing is written in a handshake, and no file or URI opened
      case OSSL_OP_STORE: return nullptr;
      default: return OSSL_PROVIDER_query_operation(self.original_, operation, no_store);
    }
  }
  static const OSSL_PARAM* gettable_params(void*) { return OSSL_PROVIDER_gettable_params(instance().original_); }
  static int get_params(void*, OSSL_PARAM params[]) { return OSSL_PROVIDER_get_params(instance().original_, params); }
  static int get_capabilities(void*, const char* capability, OSSL_CALLBACK* callback, void* argument) {
    return OSSL_PROVIDER_get_capabilities(instance().original_, capability, callback, argument);
  }

  OSSL_LIB_CTX* inner_ = nullptr;
  OSSL_PROVIDER* original_ = nullptr;
  std::vector<OSSL_ALGORITHM> key_types_, decoders_;
};

// Whether the process's own context is as OpenSSL makes it when no configuration says otherwise.
bool only_the_default_provider() {
  if (OSSL_PROVIDER_available(nullptr, "default") != 1 || EVP_default_properties_is_fips_enabled(nullptr) == 1) return false;
  bool only = true;
  OSSL_PROVIDER_do_all(
      nullptr,
      [](OSSL_PROVIDER* provider, void* result) {
        if (std::string_view(OSSL_PROVIDER_get0_name(provider)) != "default") *static_cast<bool*>(result) = false;
        return 1;
      },
      &only);
  return only;
}

OSSL_LIB_CTX* make_library() {
  const bool remembers_decoders = OPENSSL_version_major() > 3 || OPENSSL_version_minor() >= 2;
  if (remembers_decoders || !only_the_default_provider() || !LeanProvider::instance().load()) {
    ERR_clear_error();
    return nullptr;
  }
  constexpr const char* kName = "ztunnel-handshake";
  OSSL_LIB_CTX* const made = OSSL_LIB_CTX_new();
  if (made != nullptr && OSSL_PROVIDER_add_builtin(made, kName, LeanProvider::init) == 1 &&
      OSSL_PROVIDER_load(made, kName) != nullptr)
    return made;
  OSSL_LIB_CTX_free(made);
  ERR_clear_error();
  return nullptr;
}

}  // namespace

bool fips_module_active() {
  return EVP_default_properties_is_fips_enabled(nullptr) == 1 && OSSL_PROVIDER_available(nullptr, "fips") == 1;
}

OSSL_LIB_CTX* handshake_library() {
  static OSSL_LIB_CTX* const library = make_library();
  return library;
}

}  // namespace zt::hbone
