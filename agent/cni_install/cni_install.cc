#include "agent/cni_install/cni_install.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

log::Scope log_cni("cni");

constexpr size_t kMaxProgram = 64u << 20;
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB;
constexpr std::string_view kListEnding = ".conflist", kPlainEnding = ".conf";

Result<std::vector<std::string>> files_of(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(folder.c_str()), ::closedir);
  if (!listing) return file_failure("list", folder);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(listing.get())) names.emplace_back(entry->d_name);
  return names;
}

mode_t mode_of(const std::string& path) {
  struct stat file{};
  return ::stat(path.c_str(), &file) == 0 ? file.st_mode & 0777 : 0600;
}

std::string program_path(const CniInstall::Options& options) { return fmt::format("{}/{}", options.bin_folder, kPluginType); }

Result<bool> install_program(const CniInstall::Options& options) {
  ZT_ASSIGN(const std::string ours, read_file(options.program, kMaxProgram, "our CNI plugin"));
  const std::string path = program_path(options);
  const auto there = read_file(path, kMaxProgram);
  if (there && *there == ours && (mode_of(path) & 0555) == 0555) return false;
  ZT_TRY(replace_file(path, ours, 0755));
  // The mode of a file that is made is cut by the process's umask.
  if (::chmod(path.c_str(), 0755) != 0) return file_failure("change the mode of", path);
  return true;
}

// Of one plugin, and so no list.
bool is_plain(const std::string& path) { return path.ends_with(kPlainEnding); }
std::string as_list(const std::string& path) {
  return path.substr(0, path.size() - kPlainEnding.size()) + std::string(kListEnding);
}

Result<bool> install_entry(const CniInstall::Options& options) {
  std::optional<std::string> name = options.conf_name.empty() ? std::nullopt : std::optional(options.conf_name);
  if (!name) {
    ZT_ASSIGN(auto names, files_of(options.conf_folder));
    name = primary_conf(std::move(names), [&](const std::string& file) {
      const auto text = read_file(options.conf_folder + "/" + file, kMaxConfBytes);
      return text && is_conf(*text);
    });
  }
  if (!name)
    return fail(Reason::kNotFound, fmt::format("{} has no CNI configuration yet: it is waited for", options.conf_folder));
  std::string path = options.conf_folder + "/" + *name;
  // A plain one that was named has become a list, by us or by whoever keeps it.
  if (is_plain(path) && ::access(path.c_str(), F_OK) != 0 && ::access(as_list(path).c_str(), F_OK) == 0) path = as_list(path);
  ZT_ASSIGN(const std::string conf, read_file(path, kMaxConfBytes, "the CNI configuration"));
  auto changed = with_plugin(conf, options.entry);
  if (!changed) return fail(changed.error().reason, fmt::format("{}: {}", path, changed.error().text));
  if (!*changed) return false;
  const bool renamed = is_plain(path);
  const std::string target = renamed ? as_list(path) : path;
  if (renamed && ::access(target.c_str(), F_OK) == 0) {
    // What an agent did that was ended before the plain one was gone.
    if (const auto there = read_file(target, kMaxConfBytes, "the CNI configuration"); there && *there == **changed) {
      if (::unlink(path.c_str()) != 0) return file_failure("remove", path);
      return true;
    }
    return fail(Reason::kInvalidInput,
                fmt::format("{} would become {}, which is there already: remove one of them", path, target));
  }
  ZT_TRY(replace_file(target, **changed, mode_of(path)));
  if (renamed && ::unlink(path.c_str()) != 0) return file_failure("remove", path);
  return true;
}

}  // namespace

CniInstall::CniInstall(EventLoop& loop, Options options) : loop_(loop), options_(std::move(options)), timer_(loop) {}

CniInstall::~CniInstall() {
  if (inotify_) loop_.unwatch(inotify_.get(), *this);
}

void CniInstall::start() {
  watch();
  check();
}

void CniInstall::watch() {
  inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_ || !loop_.watch(inotify_.get(), *this)) inotify_.reset();
  if (!inotify_) ZT_LOG(log_cni, kWarn, "cannot watch the CNI folders, they are looked at now and then");
}

void CniInstall::on_ready(uint32_t) noexcept {
  alignas(inotify_event) std::array<char, 4096> events;
  bool any = false;
  while (::read(inotify_.get(), events.data(), events.size()) > 0) any = true;
  if (any) timer_.start(std::max(Clock::now() + options_.settle, next_), [this] { check(); });
}

void CniInstall::check() {
  // Anew each time: a folder may have been made, or replaced. One that is watched already stays so.
  if (inotify_) {
    for (const auto& folder : {options_.bin_folder, options_.conf_folder})
      (void)::inotify_add_watch(inotify_.get(), folder.c_str(), kEvents);
  }
  const auto done = install();
  installed_ = done.has_value();
  if (!done) {
    if (std::exchange(last_error_, done.error().text) != done.error().text) {
      ZT_LOG(log_cni, kError, "the CNI plugin is not installed, it is tried again", Field::string("error", done.error().text));
    }
  } else if (*done) {
    ++counts_.done;
    last_error_.clear();
    ZT_LOG(log_cni, kInfo, "CNI plugin installed", Field::string("program", program_path(options_)),
           Field::string("folder", options_.conf_folder));
  }
  next_ = Clock::now() + options_.pause;
  timer_.start_after(options_.poll, [this] { check(); });
}

// The program first: an entry without one would stop every pod.
Result<bool> CniInstall::install() {
  const auto program = install_program(options_);
  counts_.program_failures += program ? 0 : 1;
  if (!program) return program;
  const auto entry = install_entry(options_);
  counts_.entry_failures += entry ? 0 : 1;
  if (!entry) return entry;
  return *program || *entry;
}

Result<> CniInstall::remove(const Options& options) {
  std::string failures;
  const auto note = [&](const Error& error) { failures += (failures.empty() ? "" : "; ") + error.text; };
  // The entries first, for the same reason.
  if (auto names = files_of(options.conf_folder)) {
    for (const auto& name : *names) {
      const std::string path = options.conf_folder + "/" + name;
      const auto conf = read_file(path, kMaxConfBytes);
      if (!conf || conf->find(kPluginType) == std::string::npos) continue;
      const auto changed = without_plugin(*conf);
      if (!changed || !*changed) continue;
      if (auto written = replace_file(path, **changed, mode_of(path)); !written) note(written.error());
    }
  } else if (names.error().reason != Reason::kNotFound) {
    note(names.error());
  }
  const std::string program = program_path(options);
  if (failures.empty() && ::unlink(program.c_str()) != 0 && errno != ENOENT) note(file_failure("remove", program).error());
  return failures.empty() ? Result<>{} : fail(Reason::kIo, failures);
}

}  // namespace zt::agent
