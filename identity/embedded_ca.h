#pragma once
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/result.h"
#include "identity/ca_client.h"
#include "identity/ca_directory.h"

namespace zt::identity {

struct EmbeddedCaOptions {
  std::string directory;               // EMBEDDED_CA_DIR; see CaDirectory for what may be in it
  std::chrono::seconds ttl{86400};     // SECRET_TTL: lifetime of certificates
  std::function<WallTime()> wall_now;  // default: the system's clock
};

// A CA inside the process, for running with no cluster. Every node that points to the same directory uses the
// same root.
//
// Signing and file I/O happen on a thread of its own. Before each certificate the files' state is compared;
// when they changed the issuer is loaded anew, so a new intermediate or root bundle is used from the next
// certificate on. Files that vanished, are damaged or half replaced leave the previous issuer in place, with
// a warning. To change a root without cutting nodes off from each other: first add the new root to
// root-cert.pem everywhere, wait for one SECRET_TTL, then change ca-cert.pem and ca-key.pem.
class EmbeddedCa final : public CaClient {
 public:
  static constexpr size_t kMaxQueuedRequests = 1024;
  static constexpr std::chrono::days kExpiryWarning{30};  // at start, if the issuer lives no longer than this

  // Blocks: loads or makes the issuer, so that everything wrong with the directory shows at start.
  static Result<std::unique_ptr<EmbeddedCa>> open(EmbeddedCaOptions options);
  ~EmbeddedCa() override;

  void fetch(const SpiffeId& id, Done done) override;  // done runs on the CA's thread

 private:
  struct Request {
    SpiffeId id;
    Done done;
  };

  EmbeddedCa(EmbeddedCaOptions options, std::shared_ptr<const Issuer> issuer, CaDirectory::Version version);
  void run();
  void reload_if_changed();  // CA thread

  const EmbeddedCaOptions options_;
  const CaDirectory directory_;
  std::shared_ptr<const Issuer> issuer_;  // CA thread
  CaDirectory::Version seen_;             // CA thread: state of the files at the last attempt to load them

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Request> queue_;  // guarded by mutex_
  bool stopping_ = false;      // guarded by mutex_
  std::thread thread_;
};

}  // namespace zt::identity
