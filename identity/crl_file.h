#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "base/file_watch.h"
#include "base/result.h"
#include "identity/revocation.h"

namespace zt::identity {

// The file that CRL_PATH names, and what becomes of it (contract §2.11): read at start and after each change,
// also when the link of a mounted ConfigMap is swapped, or the file appears only later. What cannot be read
// or is damaged changes nothing, with a warning; an empty file is an answer, and lifts all revocations.
//
// Belongs to the loop's thread (the control thread), and reads and parses there: some ms for each MiB.
class CrlFile {
 public:
  static constexpr std::chrono::milliseconds kSettle{2000};
  // The file's state is compared this often too, for file systems and directories that report nothing.
  static constexpr std::chrono::seconds kPoll{30};

  // `apply` is called on the loop's thread for each good version, and by start() for the first.
  using Apply = std::function<void(RevocationListsPtr)>;
  CrlFile(EventLoop& loop, std::string path, Apply apply, std::chrono::milliseconds settle = kSettle);

  // Never fails: revocation must not keep a mesh from starting, and the file may come later. The log says
  // what is missing.
  void start();

  // For metrics and tests: versions handed on, and refused.
  [[nodiscard]] uint64_t applied() const { return applied_; }
  [[nodiscard]] uint64_t refused() const { return refused_; }

 private:
  void reload();

  const std::string path_;
  const Apply apply_;
  FileWatch watch_;
  std::optional<std::string> refused_text_;  // said already
  uint64_t applied_ = 0, refused_ = 0;
};

}  // namespace zt::identity
