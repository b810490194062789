#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/event_loop.h"
#include "base/file_watch.h"
#include "base/result.h"
#include "workload_api/yaml/local_version.h"

namespace zt::workload_api {

// The local configuration file and what becomes of it: reads it, watches it (FileWatch), and hands each good version on.
// A bad edit is refused as a whole and logged with its position, and the last good version stays in force. Contents equal to the
// last ones are no edit.
//
// Belongs to the loop's thread (the control thread). Files are read and parsed on a thread of their own, the first time too: a large
// one takes a second, in which who asks the control thread for something gets it.
class LocalFile final {
 public:
  static constexpr std::chrono::milliseconds kDebounce{25};

  using First = std::function<void(Result<LocalContent>)>;
  using Apply = std::function<void(LocalContent)>;
  using Present = std::function<SnapshotPtr()>;

  // `apply` is called on the loop's thread for each good version after the first. `present` says what is known, so that of a
  // large file of which a line was edited only that line's resource is made and handed on; without it everything is.
  LocalFile(EventLoop& loop, std::string path, Apply apply, Present present = {});
  ~LocalFile();  // stops a read in progress

  // Begins to watch the file and to read it for the first time. To be called once. `first` is called on the loop's thread with
  // what it says or why that is refused; it is watched in either case.
  void start(First first);

  // For tests and metrics: versions handed on, those of them of which only the change was read, and versions refused, since start().
  [[nodiscard]] uint64_t applied() const { return applied_; }
  [[nodiscard]] uint64_t edits() const { return edits_; }
  [[nodiscard]] uint64_t refused() const { return refused_; }

 private:
  struct Outcome {
    std::optional<uint64_t> digest;  // of the contents; none: they could not be read
    Result<LocalVersion> version;
  };
  struct Link {  // lets a read in progress find out that its owner has gone
    LocalFile* owner;
  };

  static Outcome read(const std::string& path, std::optional<uint64_t> known_digest, const LocalReading& reading);
  void reload();
  void finished(Outcome outcome);
  void take(Outcome outcome);
  template <class To>
  void apply(LocalVersion version, const To& to);

  EventLoop& loop_;
  std::string path_;
  Apply apply_;
  Present present_;
  FileWatch watch_;
  std::optional<uint64_t> digest_;  // of the last contents
  // Of the version that was applied last; null: none could be cut. With what was known right after that: once a push has changed
  // it, the whole file has to be said anew.
  std::shared_ptr<const Pieces> pieces_;
  uint64_t applied_generation_ = 0;
  First first_;  // until it was called
  std::jthread reader_;
  bool reading_ = false;
  bool again_ = false;  // something changed during the read
  uint64_t applied_ = 0;
  uint64_t edits_ = 0;
  uint64_t refused_ = 0;
  std::shared_ptr<Link> link_;
};

}  // namespace zt::workload_api
