#include "identity/crl_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "base/unique_fd.h"
#include "identity/log_scope.h"
#include "mesh/reason.h"

namespace zt::identity {

CrlFile::CrlFile(EventLoop& loop, std::string path, Apply apply, std::chrono::milliseconds settle)
    : path_(std::move(path)), apply_(std::move(apply)), watch_(loop, path_, [this] { reload(); }, settle), poll_(loop) {}

void CrlFile::start() {
  watch();  // before reading: an edit in between is then seen
  reload();
  poll_.start_after(kPoll, [this] { poll(); });
}

void CrlFile::watch() {
  if (watching_) return;
  const auto watched = watch_.start();
  watching_ = watched.has_value();
  if (!watching_)
    ZT_LOG(log_scope, kDebug, "cannot watch for revocation lists, comparing the file now and then instead",
           Field::string("error", watched.error().text));
}

void CrlFile::poll() {
  poll_.start_after(kPoll, [this] { poll(); });
  watch();
  const auto now = file_version(path_);
  if (now && (!seen_ || *now != *seen_)) reload();
}

Result<std::string> CrlFile::read() const {
  const UniqueFd file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return fail_errno(Reason::kIo, "cannot open it");
  std::string content;
  std::string piece(64 * 1024, '\0');
  for (;;) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(Reason::kIo, "cannot read it");
    if (got == 0) return content;
    content.append(piece, 0, static_cast<size_t>(got));
    if (content.size() > kMaxRevocationBytes)
      return fail(Reason::kInvalidInput, "larger than " + std::to_string(kMaxRevocationBytes) + " bytes");
  }
}

void CrlFile::reload() {
  const auto version = file_version(path_);
  seen_ = version ? std::optional(*version) : std::nullopt;
  auto content = read();
  auto lists = content ? RevocationLists::parse(*content) : std::unexpected(content.error());
  if (!lists) {
    ++refused_;
    if (refused_text_ == lists.error().text) return;
    refused_text_ = lists.error().text;
    ZT_LOG(log_scope, kWarn,
           applied_ == 0 ? "no revocation lists, nothing is revoked until the file is there and good"
                         : "revocation lists refused, the last good ones stay in force",
           Field::string("path", path_), Field::string("error", lists.error().text));
    return;
  }
  refused_text_.reset();
  ++applied_;
  const size_t count = (*lists)->lists(), entries = (*lists)->entries();
  apply_(std::move(*lists));
  // Afterwards: whoever reads the line may count on it.
  ZT_LOG(log_scope, kInfo, "revocation lists read", Field::string("path", path_),
         Field::count("lists", static_cast<int64_t>(count)), Field::count("entries", static_cast<int64_t>(entries)));
}

}  // namespace zt::identity
