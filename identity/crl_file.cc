#include "identity/crl_file.h"

#include <utility>

#include "base/file.h"
#include "identity/log_scope.h"

namespace zt::identity {

CrlFile::CrlFile(EventLoop& loop, std::string path, Apply apply, std::chrono::milliseconds settle)
    : path_(std::move(path)), apply_(std::move(apply)), watch_(loop, path_, [this] { reload(); }, settle, kPoll) {}

void CrlFile::start() {
  // Before reading: an edit in between is then seen.
  if (const auto watched = watch_.start(); !watched)
    ZT_LOG(log_scope, kDebug, "cannot watch for revocation lists, comparing the file now and then instead",
           Field::string("error", watched.error().text));
  reload();
}

void CrlFile::reload() {
  auto content = read_file(path_, kMaxRevocationBytes);
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
