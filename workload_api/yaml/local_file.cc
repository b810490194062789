#include "workload_api/yaml/local_file.h"

#include <malloc.h>

#include <utility>

#include "base/log.h"
#include "workload_api/yaml/yaml_source.h"

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

LocalFile::~LocalFile() { link_->owner = nullptr; }

void LocalFile::start(First first) {
  first_ = std::move(first);
  if (const auto watched = watch_.start(); !watched)
    ZT_LOG(scope, kWarn, "cannot watch for changes, comparing the file now and then instead", Field::string("path", path_),
           Field::string("error", watched.error().text));
  reload();
}

LocalFile::Outcome LocalFile::read(const std::string& path, std::optional<uint64_t> known_digest, const LocalReading& reading) {
  // First only this: most of what wakes us has changed nothing.
  const auto digest = digest_local_config(path);
  if (!digest) return {std::nullopt, std::unexpected(digest.error())};
  if (*digest == known_digest) return {*digest, LocalVersion{}};
  return {*digest, read_local_version(path, reading)};
}

void LocalFile::reload() {
  if (std::exchange(reading_, true)) {
    again_ = true;
    return;
  }
  LocalReading reading{.present = present_ ? present_() : nullptr};
  if (reading.present && reading.present->generation() == applied_generation_) reading.before = pieces_;
  reader_ = std::jthread(  // the one before has ended
      [&loop = loop_, link = link_, path = path_, known = digest_,
       reading = std::move(reading)](const std::stop_token& stop) mutable {
        reading.stop = stop;
        Outcome outcome = read(path, known, reading);
        reading = {};
        ::malloc_trim(0);  // what reading took, before the rest goes on with it
        loop.post([link, outcome = std::move(outcome)]() mutable {
          if (link->owner != nullptr) link->owner->finished(std::move(outcome));
        });
      });
}

void LocalFile::finished(Outcome outcome) {
  reading_ = false;
  take(std::move(outcome));
  if (std::exchange(again_, false)) reload();
}

void LocalFile::take(Outcome outcome) {
  if (First first = std::exchange(first_, nullptr)) {
    digest_ = outcome.digest;
    if (!outcome.version) return first(std::unexpected(std::move(outcome.version).error()));
    return apply(std::move(*outcome.version), first);
  }
  if (outcome.digest && outcome.digest == digest_) return;
  digest_ = outcome.digest;
  if (!outcome.version) {
    ++refused_;
    ZT_LOG(scope, kError, "local configuration refused, the last good one stays in force", Field::string("path", path_),
           Field::string("error", outcome.version.error().text));
    return;
  }
  const LocalContent& content = outcome.version->content;
  if (content.edit && content.compared_with != present_()->generation()) {  // a push came in between
    digest_.reset();
    again_ = true;
    return;
  }
  ++applied_;
  edits_ += content.edit ? 1 : 0;
  const size_t workloads = content.workloads(), services = content.services(), policies = content.policies();
  apply(std::move(*outcome.version), apply_);
  // Afterwards: whoever reads the line may count on it.
  ZT_LOG(scope, kInfo, "local configuration read", Field::string("path", path_),
         Field::count("workloads", static_cast<int64_t>(workloads)), Field::count("services", static_cast<int64_t>(services)),
         Field::count("policies", static_cast<int64_t>(policies)));
}

template <class To>
void LocalFile::apply(LocalVersion version, const To& to) {
  pieces_ = std::move(version.pieces);
  to(std::move(version.content));
  applied_generation_ = present_ ? present_()->generation() : 0;
}

}  // namespace zt::workload_api
