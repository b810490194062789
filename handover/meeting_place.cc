#include "handover/meeting_place.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "mesh/reason.h"

namespace zt::handover {

namespace {
log::Scope kLog("handover");
constexpr int kBacklog = 16;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(Reason::kInvalidInput,
                "the path of a socket must have 1 to " + std::to_string(sizeof address.sun_path - 1) + " bytes: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Its pid would mean nothing here: the two are in different pods.
Result<> is_our_user(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return fail_errno(Reason::kIo, "SO_PEERCRED");
  if (peer.uid == geteuid()) return {};
  return fail(Reason::kInvalidInput,
              "the process at the other end is user " + std::to_string(peer.uid) + "'s, not " + std::to_string(geteuid()) + "'s");
}

std::string random_suffix() {
  uint32_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) number = static_cast<uint32_t>(getpid());
  char text[9];
  std::snprintf(text, sizeof text, "%08x", number);
  return text;
}
}  // namespace

MeetingPlace::MeetingPlace(EventLoop& loop, std::string path, UniqueFd listener, std::function<void(UniqueFd)> accept)
    : loop_(loop), path_(std::move(path)), listener_(std::move(listener)), accept_(std::move(accept)) {}

Result<std::unique_ptr<MeetingPlace>> MeetingPlace::take(EventLoop& loop, std::string path,
                                                         std::function<void(UniqueFd)> accept) {
  ZT_TRY(address_of(path));
  const std::string made = path + "." + random_suffix();
  ZT_ASSIGN(const sockaddr_un address, address_of(made));
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener) return fail_errno(Reason::kIo, "socket");
  const auto give_up = [&made](const char* what) {
    auto error = fail_errno(Reason::kIo, std::string(what) + " " + made);
    ::unlink(made.c_str());
    return error;
  };
  // The mode from the beginning: what fchmod() sets of a socket that is not bound is what bind() makes the path with.
  if (::fchmod(listener.get(), 0600) != 0) return fail_errno(Reason::kIo, "fchmod");
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(Reason::kIo, "bind " + made);
  }
  if (::chmod(made.c_str(), 0600) != 0) return give_up("chmod");
  if (::listen(listener.get(), kBacklog) != 0) return give_up("listen");
  struct stat info{};
  if (::lstat(made.c_str(), &info) != 0) return give_up("stat");
  std::unique_ptr<MeetingPlace> place(new MeetingPlace(loop, path, std::move(listener), std::move(accept)));
  place->device_ = info.st_dev;
  place->inode_ = info.st_ino;
  if (auto watched = loop.watch(place->listener_.get(), *place); !watched) {
    ::unlink(made.c_str());
    place->listener_.reset();
    return std::unexpected(watched.error());
  }
  if (::rename(made.c_str(), path.c_str()) != 0) return give_up("rename");
  return place;
}

MeetingPlace::~MeetingPlace() {
  if (!listener_) return;
  if (is_ours()) ::unlink(path_.c_str());
  loop_.unwatch(listener_.get(), *this);
}

bool MeetingPlace::is_ours() const {
  struct stat info{};
  return ::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_;
}

void MeetingPlace::on_ready(uint32_t) noexcept {
  for (;;) {
    UniqueFd visitor(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!visitor && errno == EINTR) continue;
    if (!visitor) return;
    if (const auto ours = is_our_user(visitor.get()); !ours) {
      ZT_LOG(kLog, kWarn, "a visitor was turned away", Field::string("cause", ours.error().text));
      continue;
    }
    accept_(std::move(visitor));
  }
}

Result<UniqueFd> visit(const std::string& path) {
  ZT_ASSIGN(const sockaddr_un address, address_of(path));
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) {
    const bool nobody = errno == ENOENT || errno == ENOTDIR;
    return fail_errno(nobody ? Reason::kNotFound : Reason::kIo, path);
  }
  if (!S_ISSOCK(info.st_mode)) return fail(Reason::kInvalidInput, path + " is no socket");
  if (info.st_uid != geteuid()) return fail(Reason::kInvalidInput, path + " belongs to user " + std::to_string(info.st_uid));
  if ((info.st_mode & 077) != 0) return fail(Reason::kInvalidInput, path + " is open to others than its owner");
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(Reason::kIo, "socket");
  int connected;
  do {
    connected = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (connected != 0 && errno == EINTR);
  if (connected != 0) {
    const bool nobody = errno == ECONNREFUSED || errno == ENOENT;
    return fail_errno(nobody ? Reason::kNotFound : Reason::kIo, "connect " + path);
  }
  ZT_TRY(is_our_user(fd.get()));
  return fd;
}

}  // namespace zt::handover
