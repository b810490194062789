#include "workload_api/yaml/local_file.h"

#include <fmt/format.h>
#include <limits.h>
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

constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}
std::string name_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace

LocalFile::LocalFile(EventLoop& loop, std::string path, Apply apply)
    : loop_(loop),
      path_(std::move(path)),
      apply_(std::move(apply)),
      debounce_(loop),
      poll_(loop),
      name_(name_of(path_)),
      link_(std::make_shared<Link>(this)) {}

LocalFile::~LocalFile() {
  link_->owner = nullptr;
  if (inotify_) loop_.unwatch(inotify_.get(), *this);
  if (reader_.joinable()) reader_.join();
}

Result<LocalConfig> LocalFile::start() {
  // Watch before reading: an edit in between is then seen.
  inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_) {
    ZT_LOG(scope, kWarn, "cannot watch for changes, comparing the file now and then instead", Field::string("path", path_),
           Field::string("error", errno_text(errno)));
  } else if (auto watched = loop_.watch(inotify_.get(), *this); !watched) {
    return std::unexpected(std::move(watched).error());
  }
  watch_directories();
  poll_.start_after(kPoll, [this] { poll(); });
  seen_ = signature();
  Outcome outcome = read(path_, std::nullopt);
  digest_ = outcome.digest;
  return std::move(outcome.config);
}

std::optional<LocalFile::Signature> LocalFile::signature() const {
  struct stat status{};
  if (::stat(path_.c_str(), &status) != 0) return std::nullopt;
  return Signature{status.st_dev, status.st_ino, static_cast<uint64_t>(status.st_size), status.st_mtim.tv_sec,
                   status.st_mtim.tv_nsec};
}

LocalFile::Outcome LocalFile::read(const std::string& path, std::optional<uint64_t> known_digest) {
  Result<std::string> content = read_local_config(path);
  if (!content) return {std::nullopt, std::unexpected(std::move(content).error())};
  const uint64_t digest = std::hash<std::string>{}(*content);
  if (digest == known_digest) return {digest, LocalConfig{}};
  return {digest, parse_local_config(*content, path)};
}

// The directory of the path, and that of the file it leads to, which for a link may be another one. A
// directory that has been replaced is a new one to the kernel, so this is done again after every change;
// watching one twice is watching it once.
void LocalFile::watch_directories() {
  if (!inotify_) return;
  (void)::inotify_add_watch(inotify_.get(), directory_of(path_).c_str(), kEvents);
  std::array<char, PATH_MAX> resolved{};
  if (::realpath(path_.c_str(), resolved.data()) == nullptr) return;
  const std::string target = resolved.data();
  target_name_ = name_of(target);
  (void)::inotify_add_watch(inotify_.get(), directory_of(target).c_str(), kEvents);
}

bool LocalFile::concerns_us(const std::string& name) const {
  // "..data" and its like are the links of a mounted ConfigMap.
  return name.empty() || name == name_ || name == target_name_ || name.starts_with("..");
}

void LocalFile::on_ready(uint32_t /*events*/) noexcept {
  alignas(inotify_event) std::array<char, 16384> buffer;
  bool changed = false;
  while (true) {
    const ssize_t got = ::read(inotify_.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    for (const char* at = buffer.data(); at < buffer.data() + got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(at);
      const std::string name = event->len > 0 ? event->name : "";
      at += sizeof(inotify_event) + event->len;
      if (!concerns_us(name)) continue;
      if ((event->mask & IN_CREATE) != 0) {
        // A file that has just been made is still empty; its IN_CLOSE_WRITE comes. A link is complete.
        struct stat status{};
        if (::lstat((directory_of(path_) + "/" + name).c_str(), &status) == 0 && S_ISREG(status.st_mode)) continue;
      }
      changed = true;
    }
  }
  if (changed) debounce_.start_after(kDebounce, [this] { reload(); });
}

void LocalFile::poll() {
  poll_.start_after(kPoll, [this] { poll(); });
  watch_directories();
  const auto now = signature();
  if (!now || now == seen_) {
    pending_.reset();
  } else if (now == pending_) {
    pending_.reset();
    reload();
  } else {
    pending_ = now;
  }
}

void LocalFile::reload() {
  if (std::exchange(reading_, true)) {
    again_ = true;
    return;
  }
  if (reader_.joinable()) reader_.join();
  seen_ = signature();
  watch_directories();
  reader_ = std::thread([&loop = loop_, link = link_, path = path_, known = digest_] {
    loop.post([link, outcome = read(path, known)]() mutable {
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
  const size_t workloads = outcome.config->workloads.size(), services = outcome.config->services.size(),
               policies = outcome.config->policies.size();
  apply_(std::move(*outcome.config));
  // Afterwards: whoever reads the line may count on it.
  ZT_LOG(scope, kInfo, "local configuration read", Field::string("path", path_),
         Field::count("workloads", static_cast<int64_t>(workloads)), Field::count("services", static_cast<int64_t>(services)),
         Field::count("policies", static_cast<int64_t>(policies)));
}

}  // namespace zt::workload_api
