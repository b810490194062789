#pragma once
#include <array>
#include <memory>
#include <string>

#include "base/result.h"
#include "identity/issuer.h"
#include "identity/private_file.h"
#include "identity/wall_time.h"

namespace zt::identity {

// Where the embedded CA keeps its issuer. Three forms:
//
//   embedded-root.pem   certificate and key of a root that we made ourselves. One file, so that creating it
//   is atomic; all
//                       processes and nodes that share the directory use the one that got there first. Mode
//                       0600.
//   ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem
//                       an issuer brought along, as Istio's plug-in CA files. If any of the four exists, all
//                       must, and embedded-root.pem is ignored. cert-chain.pem may be empty when ca-cert.pem
//                       is a root itself.
//   tls.crt, tls.key, ca.crt
//                       the same as a Kubernetes TLS secret has it (cert-manager's, for example), which istiod takes too: the CA's
//                       certificate followed by those up to the root, its key, the roots. Not beside the four.
//
// All functions block on file I/O. Errors name the file and what to do, and never quote a file's content.
class CaDirectory {
 public:
  static constexpr const char* kSelfMadeRoot = "embedded-root.pem";
  static constexpr const char* kCertificate = "ca-cert.pem";
  static constexpr const char* kKey = "ca-key.pem";
  static constexpr const char* kChain = "cert-chain.pem";
  static constexpr const char* kRoots = "root-cert.pem";
  static constexpr const char* kTlsCertificate = "tls.crt";
  static constexpr const char* kTlsKey = "tls.key";
  static constexpr const char* kTlsRoots = "ca.crt";
  static constexpr size_t kMaxChainCertificates = 16;

  explicit CaDirectory(std::string path) : path_(std::move(path)) {}

  // Makes the directory, and a root if there is nothing in it yet. For the start of the process.
  [[nodiscard]] Result<> prepare(WallTime now) const;
  // Loads what is there now, makes nothing: a root that vanished under a running mesh must not be replaced by
  // an unrelated one.
  [[nodiscard]] Result<std::shared_ptr<const Issuer>> load(WallTime now) const;

  // Changes whenever one of the files may have changed.
  using Version = std::array<FileVersion, 8>;
  [[nodiscard]] Result<Version> version() const;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] std::string file(const char* name) const { return path_ + "/" + name; }
  struct Names;
  [[nodiscard]] Result<std::shared_ptr<const Issuer>> load_plugged_in(const Names& names, WallTime now) const;
  [[nodiscard]] Result<std::shared_ptr<const Issuer>> load_self_made(WallTime now) const;
  [[nodiscard]] Result<> make_self_made(WallTime now) const;

  std::string path_;
};

}  // namespace zt::identity
