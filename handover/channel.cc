#include "handover/channel.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "mesh/reason.h"

namespace zt::handover {

namespace {
constexpr size_t kHeader = 12;
constexpr size_t kMaxDescriptors = 16 * 1024;
constexpr size_t kReadAtOnce = 256 * 1024;
// The kernel counts descriptors on their way against the limit of open ones: the other side takes them in the meantime.
constexpr std::chrono::milliseconds kRetry{1};
// A unit is a few MiB at most: the less often its owner has to come back to send it, the shorter it stands still.
constexpr int kSendBuffer = 4 * 1024 * 1024;

void put(uint8_t* at, uint32_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<uint8_t>(value >> 8 * i);
}
uint32_t get(const uint8_t* at) { return uint32_t{at[0]} | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24; }
SecretBytes framed(Message message, std::span<const uint8_t> bytes, size_t descriptors) {
  SecretBytes out(kHeader);
  put(out.data(), static_cast<uint32_t>(message));
  put(out.data() + 4, static_cast<uint32_t>(bytes.size()));
  put(out.data() + 8, static_cast<uint32_t>(descriptors));
  out.insert(out.end(), bytes.begin(), bytes.end());
  return out;
}
}  // namespace

Channel::Channel(EventLoop& loop, UniqueFd socket, size_t most, User& user)
    : loop_(loop), fd_(std::move(socket)), most_(most), user_(user), retry_timer_(loop) {
  setsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
}

Channel::~Channel() {
  close();
  if (gone_ != nullptr) *gone_ = true;
}

Result<> Channel::start() {
  ZT_TRY(loop_.watch(fd_.get(), *this));
  watched_ = true;
  return {};
}

void Channel::close() {
  if (std::exchange(watched_, false)) loop_.unwatch(fd_.get(), *this);
  fd_.reset();
  retry_timer_.cancel();
  out_.clear();
}

void Channel::send(Message message, SecretBytes bytes, std::vector<int> descriptors) {
  if (!fd_) return;
  out_.push_back(
      {.bytes = framed(message, bytes, descriptors.size()), .begin = 0, .descriptors = std::move(descriptors), .given = 0});
  flush();
}

Channel::Said Channel::say(Message message, std::span<const uint8_t> bytes) {
  if (!fd_ || !out_.empty()) return Said::kNo;
  const auto out = framed(message, bytes, 0);
  ssize_t n;
  do {
    n = ::send(fd_.get(), out.data(), out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(out.size())) return Said::kYes;
  return n < 0 && (errno == EPIPE || errno == ECONNRESET) ? Said::kOtherClosed : Said::kNo;
}

// After the shutdown the other's send() fails, so what it has said is what is here.
bool Channel::close_and_ask_for(Message message) {
  if (!fd_) return false;
  ::shutdown(fd_.get(), SHUT_RDWR);
  while (receive() > 0) {
  }
  bool found = false;
  for (size_t at = 0; at + kHeader <= in_.size(); at += kHeader + get(in_.data() + at + 4)) {
    found = found || get(in_.data() + at) == static_cast<uint32_t>(message);
  }
  close();
  return found;
}

void Channel::flush() {
  while (!out_.empty() && write_some(out_.front())) out_.pop_front();
}

// True: all of it is the kernel's.
bool Channel::write_some(Outgoing& out) {
  while (out.begin < out.bytes.size()) {
    // Descriptors go with the message's first bytes, some with each piece: no byte of the next one overtakes them.
    const size_t left = out.descriptors.size() - out.given;
    const size_t count = std::min(left, kDescriptorsAtOnce);
    iovec part{out.bytes.data() + out.begin, left > count ? 1 : out.bytes.size() - out.begin};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kDescriptorsAtOnce)> control{};
    if (count > 0) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
      cmsghdr* const rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
      std::memcpy(CMSG_DATA(rights), out.descriptors.data() + out.given, sizeof(int) * count);
    }
    const ssize_t n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == ETOOMANYREFS) {
      retry_timer_.start_after(kRetry, [this] { flush(); });
      return false;
    }
    if (n < 0) return false;  // EAGAIN: told by an edge; the other side gone: told by reading
    out.given += count;
    out.begin += static_cast<size_t>(n);
  }
  return true;
}

void Channel::on_ready(uint32_t events) noexcept {
  bool gone = false;
  gone_ = &gone;
  if ((events & EPOLLOUT) != 0) flush();
  if ((events & ~uint32_t{EPOLLOUT}) != 0) read_all();
  if (!gone) gone_ = nullptr;
}

void Channel::read_all() {
  bool& gone = *gone_;
  while (!gone && fd_ && read_some()) {
    while (!gone && fd_ && deliver_one()) {
    }
  }
}

// False: nothing now, or the end.
bool Channel::read_some() {
  const ssize_t n = receive();
  if (n > 0) return true;
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  const int error = errno;
  end(Reason::kIo, n == 0 ? "the other process has closed" : "the other process is gone: " + errno_text(error),
      n == 0 || error == ECONNRESET);
  return false;
}

// As recvmsg(): bytes go to in_, descriptors to in_descriptors_.
ssize_t Channel::receive() {
  const size_t before = in_.size();
  in_.resize(before + kReadAtOnce);
  iovec part{in_.data() + before, kReadAtOnce};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * 253)> control;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n;
  do {
    n = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  const int error = errno;
  in_.resize(before + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (n >= 0) {
    for (cmsghdr* each = CMSG_FIRSTHDR(&message); each != nullptr; each = CMSG_NXTHDR(&message, each)) {
      if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(each) + i * sizeof(int), sizeof fd);
        in_descriptors_.emplace_back(fd);
      }
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0) in_lost_ = true;
  }
  errno = error;
  return n;
}

bool Channel::deliver_one() {
  if (in_.size() < kHeader) return false;
  const size_t size = get(in_.data() + 4), descriptors = get(in_.data() + 8);
  if (size > most_ || descriptors > kMaxDescriptors || in_descriptors_.size() > kMaxDescriptors) {
    end(Reason::kInvalidInput,
        "the other process sends a message of " + std::to_string(size) + " bytes and " + std::to_string(descriptors) +
            " descriptors",
        false);
    return false;
  }
  if (in_.size() < kHeader + size) return false;
  Received received{.message = static_cast<Message>(get(in_.data())), .bytes = {}, .descriptors = {}};
  received.bytes.assign(in_.begin() + kHeader, in_.begin() + static_cast<ptrdiff_t>(kHeader + size));
  in_ = SecretBytes(in_.begin() + static_cast<ptrdiff_t>(kHeader + size), in_.end());
  // Once some were lost nobody knows which of a later message's are whose.
  received.descriptors_lost = descriptors > 0 && (in_lost_ || in_descriptors_.size() < descriptors);
  for (size_t i = 0; i < descriptors && !in_descriptors_.empty(); ++i) {
    received.descriptors.push_back(std::move(in_descriptors_.front()));
    in_descriptors_.pop_front();
  }
  if (received.descriptors_lost) {
    received.descriptors.clear();
    in_descriptors_.clear();
    in_lost_ = false;
  }
  user_.on_message(std::move(received));
  return true;
}

void Channel::end(Reason reason, std::string text, bool other_closed) {
  close();
  user_.on_end({reason, std::move(text)}, other_closed);
}

}  // namespace zt::handover
