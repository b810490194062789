#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/event_loop.h"
#include "base/file_watch.h"
#include "base/result.h"
#include "workload_api/yaml/yaml_source.h"

namespace zt::workload_api {

// The local configuration file and what becomes of it: reads it, watches it (FileWatch), and hands each good version on.
// A bad edit is refused as a whole and logged with its position, and the last good version stays in force. Contents equal to the
// last ones are no edit.
//
// Belongs to the loop's thread (the control thread). Files are read and parsed on a thread of their own.
class LocalFile final {
 public:
  static constexpr std::chrono::milliseconds kDebounce{25};

  using Apply = std::function<void(LocalContent)>;
  using Present = std::function<SnapshotPtr()>;

  // `apply` is called on the loop's thread for each good version after the first. `present` says what is known, so that of a
  // large file of which a line was edited only that line's resource is made and handed on; without it everything is.
  LocalFile(EventLoop& loop, std::string path, Apply apply, Present present = {});
  ~LocalFile();  // waits for a read in progress

  // Reads the file for the first time and begins to watch it, even if what it says now is refused. To be called once. Blocks
  // until it is read.
  [[nodiscard]] Result<LocalContent> start();

  // For tests and metrics: versions handed on, and refused, since start().
  [[nodiscard]] uint64_t applied() const { return applied_; }
  [[nodiscard]] uint64_t refused() const { return refused_; }

 private:
  struct Outcome {
    std::optional<uint64_t> digest;  // of the contents; none: they could not be read
    Result<LocalContent> config;
  };
  struct Link {  // lets a read in progress find out that its owner has gone
    LocalFile* owner;
  };

  static Outcome read(const std::string& path, std::optional<uint64_t> known_digest, const SnapshotPtr& present);
  void reload();
  void finished(Outcome outcome);

  EventLoop& loop_;
  std::string path_;
  Apply apply_;
  Present present_;
  FileWatch watch_;
  std::optional<uint64_t> digest_;  // of the last contents
  std::thread reader_;
  bool reading_ = false;
  bool again_ = false;  // something changed during the read
  uint64_t applied_ = 0;
  uint64_t refused_ = 0;
  std::shared_ptr<Link> link_;
};

}  // namespace zt::workload_api
