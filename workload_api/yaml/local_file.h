#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "workload_api/yaml/yaml_source.h"

namespace zt::workload_api {

// The local configuration file and what becomes of it: reads it, watches it, and hands each good version on.
// A bad edit is refused as a whole and logged with its position, and the last good version stays in force.
//
// What counts as an edit: the file written and closed, another file renamed over it, a symbolic link on the
// way swapped (as Kubernetes does with mounted ConfigMaps). The directories are watched, not the file, and
// every kPoll the file is compared as well, for file systems that report nothing. Contents equal to the last
// ones are no edit.
//
// Belongs to the loop's thread (the control thread). Files are read and parsed on a thread of their own.
class LocalFile final : private Watcher {
 public:
  static constexpr std::chrono::milliseconds kDebounce{25};
  static constexpr std::chrono::seconds kPoll{5};

  using Apply = std::function<void(LocalConfig)>;

  // `apply` is called on the loop's thread for each good version after the first.
  LocalFile(EventLoop& loop, std::string path, Apply apply);
  ~LocalFile();  // waits for a read in progress

  // Reads the file for the first time and begins to watch it, even if what it says now is refused. To be
  // called once.
  [[nodiscard]] Result<LocalConfig> start();

  // For tests and metrics: versions handed on, and refused, since start().
  [[nodiscard]] uint64_t applied() const { return applied_; }
  [[nodiscard]] uint64_t refused() const { return refused_; }

 private:
  // What tells two states of the file apart without reading it.
  struct Signature {
    uint64_t device = 0, inode = 0, size = 0;
    int64_t changed_seconds = 0, changed_nanoseconds = 0;
    friend bool operator==(const Signature&, const Signature&) = default;
  };
  struct Outcome {
    std::optional<uint64_t> digest;  // of the contents; none: they could not be read
    Result<LocalConfig> config;
  };
  struct Link {  // lets a read in progress find out that its owner has gone
    LocalFile* owner;
  };

  [[nodiscard]] std::optional<Signature> signature() const;
  static Outcome read(const std::string& path, std::optional<uint64_t> known_digest);
  void watch_directories();
  void on_ready(uint32_t events) noexcept override;
  [[nodiscard]] bool concerns_us(const std::string& name) const;
  void poll();
  void reload();
  void finished(Outcome outcome);

  EventLoop& loop_;
  std::string path_;
  Apply apply_;
  UniqueFd inotify_;
  Timer debounce_;
  Timer poll_;
  std::string name_, target_name_;    // in their directories: of the path, and of the file that it leads to
  std::optional<Signature> seen_;     // at the last read
  std::optional<Signature> pending_;  // differed at the last poll: read once it has stopped changing
  std::optional<uint64_t> digest_;    // of the last contents
  std::thread reader_;
  bool reading_ = false;
  bool again_ = false;  // something changed during the read
  uint64_t applied_ = 0;
  uint64_t refused_ = 0;
  std::shared_ptr<Link> link_;
};

}  // namespace zt::workload_api
