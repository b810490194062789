#include "workload_api/yaml/local_file.h"

#include <fmt/format.h>
#include <limits.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <array>
#include <functional>
#include <string_view>
#include <utility>

#include "base/log.h"

namespace zt::workload_api {
namespace {

log::Scope scope{"local_config"};

}  // namespace

LocalFile::LocalFile(EventLoop& loop, std::string path, Apply apply, Present present)
    : loop_(loop),
      path_(std::move(path)),
      apply_(std::move(apply)),
      present_(std::move(present)),
      watch_(
          loop, path_, [this] { reload(); }, kDebounce),
      link_(std::make_shared<Link>(this)) {}

LocalFile::~LocalFile() {
  link_->owner = nullptr;
  if (reader_.joinable()) reader_.join();
}

Result<LocalContent> LocalFile::start() {
  if (const auto watched = watch_.start(); !watched)
    ZT_LOG(scope, kWarn, "cannot watch for changes, comparing the file now and then instead", Field::string("path", path_),
           Field::string("error", watched.error().text));
  Outcome outcome = read(path_, std::nullopt, nullptr);
  digest_ = outcome.digest;
  return std::move(outcome.config);
}

LocalFile::Outcome LocalFile::read(const std::string& path, std::optional<uint64_t> known_digest, const SnapshotPtr& present) {
  // First only this: most of what wakes us has changed nothing.
  const auto digest = digest_local_config(path);
  if (!digest) return {std::nullopt, std::unexpected(digest.error())};
  if (*digest == known_digest) return {*digest, LocalContent{}};
  return {*digest, load_local_config(path, present)};
}

void LocalFile::reload() {
  if (std::exchange(reading_, true)) {
    again_ = true;
    return;
  }
  if (reader_.joinable()) reader_.join();
  reader_ = std::thread(
      [&loop = loop_, link = link_, path = path_, known = digest_, present = present_ ? present_() : nullptr]() mutable {
        Outcome outcome = read(path, known, present);
        present.reset();
        ::malloc_trim(0);  // what reading took, before the rest goes on with it
        loop.post([link, outcome = std::move(outcome)]() mutable {
          if (link->owner != nullptr) link->owner->finished(std::move(outcome));
        });
      });
}

void LocalFile::finished(Outcome outcome) {
  reading_ = false;
  if (std::exchange(again_, false)) reload();
  if (outcome.digest && outcome.digest == digest_) return;
  digest_ = outcome.digest;
  if (!outcome.config) {
    ++refused_;
    ZT_LOG(scope, kError, "local configuration refused, the last good one stays in force", Field::string("path", path_),
           Field::string("error", outcome.config.error().text));
    return;
  }
  ++applied_;
  const size_t workloads = outcome.config->workloads(), services = outcome.config->services(),
               policies = outcome.config->policies();
  apply_(std::move(*outcome.config));
  // Afterwards: whoever reads the line may count on it.
  ZT_LOG(scope, kInfo, "local configuration read", Field::string("path", path_),
         Field::count("workloads", static_cast<int64_t>(workloads)), Field::count("services", static_cast<int64_t>(services)),
         Field::count("policies", static_cast<int64_t>(policies)));
}

}  // namespace zt::workload_api
