#include "identity/ca_directory.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <span>

#include "identity/log_scope.h"
#include "identity/pem.h"
#include "mesh/reason.h"

namespace zt::identity {
namespace {

std::unexpected<Error> refuse(const std::string& file, std::string_view what, std::string_view advice) {
  return fail(Reason::kInvalidInput, file + ": " + std::string(what) + ". " + std::string(advice));
}

void warn_if_readable_by_others(const std::string& file) {
  constexpr uint32_t kOthers = 077;
  if (const auto version = file_version(file); version && (version->mode & kOthers) != 0)
    ZT_LOG(log_scope, kWarn, "a CA key can be read by others than its owner: chmod 0600", Field::string("file", file));
}

// Unless it is sticky, whoever may write to a directory may replace the files in it.
void warn_if_writable_by_others(const std::string& directory) {
  constexpr uint32_t kWriters = 022, kSticky = 01000;
  if (const auto version = file_version(directory); version && (version->mode & kWriters) != 0 && (version->mode & kSticky) == 0)
    ZT_LOG(log_scope, kWarn, "the embedded CA's files can be replaced by others than their owner: chmod 0700",
           Field::string("directory", directory));
}

constexpr std::array kPluggedIn = {CaDirectory::kCertificate, CaDirectory::kKey, CaDirectory::kChain, CaDirectory::kRoots};
constexpr std::array kTlsSecret = {CaDirectory::kTlsCertificate, CaDirectory::kTlsKey, CaDirectory::kTlsRoots};

}  // namespace

// The files of one form.
struct CaDirectory::Names {
  const char* certificate;
  const char* key;
  const char* chain;  // may be `certificate`: what follows the CA's own in it
  const char* roots;
  std::span<const char* const> all;
  std::string_view advice;  // if one is missing
};

// In the order of Version: our own root, the four, the three.
Result<CaDirectory::Version> CaDirectory::version() const {
  Version version;
  size_t i = 0;
  ZT_ASSIGN(version[i++], file_version(file(kSelfMadeRoot)));
  for (const char* name : kPluggedIn) {
    ZT_ASSIGN(version[i++], file_version(file(name)));
  }
  for (const char* name : kTlsSecret) {
    ZT_ASSIGN(version[i++], file_version(file(name)));
  }
  return version;
}

Result<> CaDirectory::prepare(WallTime now) const {
  if (path_.empty()) return fail(Reason::kInvalidInput, "the embedded CA has no directory. Set EMBEDDED_CA_DIR");
  ZT_TRY(make_private_directory(path_));
  warn_if_writable_by_others(path_);
  ZT_ASSIGN(const Version files, version());
  if (std::ranges::none_of(files, &FileVersion::exists)) ZT_TRY(make_self_made(now));
  return {};
}

Result<std::shared_ptr<const Issuer>> CaDirectory::load(WallTime now) const {
  static constexpr Names kFour{
      kCertificate,
      kKey,
      kChain,
      kRoots,
      kPluggedIn,
      "A CA brought along needs ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem; remove all four to let one be made"};
  static constexpr Names kThree{
      kTlsCertificate,
      kTlsKey,
      kTlsCertificate,
      kTlsRoots,
      kTlsSecret,
      "A CA brought along as a TLS secret needs tls.crt, tls.key and ca.crt; remove all three to let one be made"};
  ZT_ASSIGN(const Version files, version());
  const auto first_of_three = files.begin() + 1 + kPluggedIn.size();
  const bool four = std::any_of(files.begin() + 1, first_of_three, [](const FileVersion& version) { return version.exists; });
  const auto of_three = std::find_if(first_of_three, files.end(), [](const FileVersion& version) { return version.exists; });
  if (four && of_three != files.end())
    return refuse(
        file(kTlsSecret[static_cast<size_t>(of_three - first_of_three)]), "is beside another CA's ca-cert.pem",
        "Keep the four files (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem) or the three (tls.crt, tls.key, ca.crt)");
  if (four) return load_plugged_in(kFour, now);
  if (of_three != files.end()) return load_plugged_in(kThree, now);
  if (files[0].exists) return load_self_made(now);
  return fail(Reason::kIo, path_ + " holds no CA any more. Restore its files, or restart to make a new root");
}

Result<std::shared_ptr<const Issuer>> CaDirectory::load_plugged_in(const Names& names, WallTime now) const {
  const bool own_chain_file = names.chain != names.certificate;
  for (const char* name : names.all) {
    ZT_ASSIGN(const FileVersion version, file_version(file(name)));
    if (!version.exists) return refuse(file(name), "is missing", names.advice);
  }
  ZT_ASSIGN(const SecretText certificate_text, read_private_file(file(names.certificate)));
  ZT_ASSIGN(const SecretText key_text, read_private_file(file(names.key)));
  ZT_ASSIGN(const SecretText chain_text, read_private_file(file(names.chain)));
  ZT_ASSIGN(const SecretText roots_text, read_private_file(file(names.roots)));
  warn_if_readable_by_others(file(names.key));

  auto certificate = parse_certificates(certificate_text.view(), 1 + kMaxChainCertificates);
  if (!certificate) return refuse(file(names.certificate), certificate.error().text, "Put the CA's certificate in it, as PEM");
  auto key = parse_private_key(key_text.view());
  if (!key) return refuse(file(names.key), key.error().text, "Put the CA's private key in it, as PEM");
  std::vector<X509Ptr> chain;
  if (!own_chain_file) {
    for (auto link = certificate->begin() + 1; link != certificate->end(); ++link) chain.push_back(std::move(*link));
  } else if (!split_pem(chain_text.view()).empty()) {
    auto links = parse_certificates(chain_text.view(), kMaxChainCertificates);
    if (!links)
      return refuse(file(names.chain), links.error().text, "Put the certificates from the CA's up to the root in it, as PEM");
    chain = std::move(*links);
  }
  auto roots = TrustBundle::from_pem(roots_text.view());
  if (!roots) return refuse(file(names.roots), roots.error().text, "Put the root certificates in it, as PEM");

  auto issuer = Issuer::create(std::move(certificate->front()), std::move(*key), std::move(chain), std::move(*roots), now);
  if (issuer) return *issuer;
  switch (issuer.error().subject) {
    case Issuer::Subject::kKey:
      return refuse(file(names.key), issuer.error().text, fmt::format("It must be the private key of {}", names.certificate));
    case Issuer::Subject::kChain:
      return refuse(file(names.chain), issuer.error().text,
                    own_chain_file
                        ? fmt::format("{}, through the certificates of {}, must lead to one in {}", names.certificate,
                                      names.chain, names.roots)
                        : fmt::format("Its first certificate, through those that follow, must lead to one in {}", names.roots));
    case Issuer::Subject::kCertificate: break;
  }
  return refuse(file(names.certificate), issuer.error().text, "Replace it with the certificate of a CA that is valid now");
}

Result<std::shared_ptr<const Issuer>> CaDirectory::load_self_made(WallTime now) const {
  const std::string name = file(kSelfMadeRoot);
  constexpr std::string_view kAdvice = "Restore it from a copy, or remove it to get a new root (every node must then restart)";
  ZT_ASSIGN(const SecretText text, read_private_file(name));
  warn_if_readable_by_others(name);
  auto certificate = parse_certificates(text.view(), 1);
  if (!certificate) return refuse(name, certificate.error().text, kAdvice);
  auto key = parse_private_key(text.view());
  if (!key) return refuse(name, key.error().text, kAdvice);
  std::vector<X509Ptr> roots;
  roots.push_back(share(certificate->front().get()));
  auto bundle = TrustBundle::create(std::move(roots));
  if (!bundle) return refuse(name, bundle.error().text, kAdvice);
  auto issuer = Issuer::create(std::move(certificate->front()), std::move(*key), {}, std::move(*bundle), now);
  if (!issuer) return refuse(name, issuer.error().text, kAdvice);
  return *issuer;
}

Result<> CaDirectory::make_self_made(WallTime now) const {
  ZT_ASSIGN(const RootMaterial root, make_root(now));
  // A memory BIO wipes its buffer when it grows and when it goes; the key's text exists nowhere else.
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio ||
      BIO_puts(bio.get(), "Root certificate and private key of ztunnel's embedded CA. Whoever reads this can be anyone.\n") < 0 ||
      PEM_write_bio_X509(bio.get(), root.certificate.get()) != 1 ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), root.key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return fail(Reason::kInternal, openssl_error_text("cannot write the new root as PEM"));
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  ZT_ASSIGN(const Published outcome,
            publish_private_file(path_, kSelfMadeRoot, std::string_view(data, static_cast<size_t>(length))));
  if (outcome == Published::kCreated)
    ZT_LOG(log_scope, kInfo, "made a root for the embedded CA", Field::string("file", file(kSelfMadeRoot)));
  return {};
}

}  // namespace zt::identity
