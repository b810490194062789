#include "identity/chain_verify.h"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <chrono>
#include <ctime>

#include "identity/x509_info.h"

namespace zt::identity {
namespace {

// OpenSSL's level that handshakes are held to, where nobody has changed it: no SHA-1, no RSA below 2048 bits. What passed here and
// failed there would leave nobody able to connect and no word of why.
constexpr int kHandshakeSecurityLevel = 2;

struct StackFree {
  void operator()(STACK_OF(X509) * stack) const noexcept { sk_X509_free(stack); }  // its certificates are borrowed
};

}  // namespace

std::expected<std::vector<X509Ptr>, std::string> verify_chain(X509* certificate, std::span<const X509Ptr> untrusted,
                                                              const TrustBundle& roots, WallTime now) {
  auto store = roots.make_store();
  if (!store) return std::unexpected(store.error().text);
  ERR_clear_error();
  const X509StoreCtxPtr context(X509_STORE_CTX_new());
  const std::unique_ptr<STACK_OF(X509), StackFree> links(sk_X509_new_null());
  bool built = context && links;
  for (const X509Ptr& link : untrusted) built = built && sk_X509_push(links.get(), link.get()) > 0;
  if (!built || X509_STORE_CTX_init(context.get(), store->get(), certificate, links.get()) != 1)
    return std::unexpected(openssl_error_text("cannot verify"));
  X509_VERIFY_PARAM* rules = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(rules, std::chrono::floor<std::chrono::seconds>(now).time_since_epoch().count());
  X509_VERIFY_PARAM_set_flags(rules, X509_V_FLAG_PARTIAL_CHAIN);
  X509_VERIFY_PARAM_set_auth_level(rules, kHandshakeSecurityLevel);

  if (X509_verify_cert(context.get()) != 1) {
    ERR_clear_error();
    const X509* at = X509_STORE_CTX_get_current_cert(context.get());
    const char* why = X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
    return std::unexpected(std::string(why) + " (at " + subject_of(at != nullptr ? at : certificate) + ")");
  }
  std::vector<X509Ptr> path;
  const STACK_OF(X509)* verified = X509_STORE_CTX_get0_chain(context.get());
  for (int i = 0; i < sk_X509_num(verified); ++i) path.push_back(share(sk_X509_value(verified, i)));
  return path;
}

}  // namespace zt::identity
