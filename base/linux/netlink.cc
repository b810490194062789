#include "base/linux/netlink.h"

#include <fmt/core.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace zt {

namespace {
constexpr size_t kReceiveBuffer = 64u << 10;
// The kernel answers within the call; this only keeps a bug from hanging the agent.
constexpr timeval kAnswerLimit{.tv_sec = 5, .tv_usec = 0};
constexpr int kDumpTries = 5;
}  // namespace

void NetlinkRequest::attribute(uint16_t type, const void* data, size_t size) {
  append(rtattr{.rta_len = static_cast<uint16_t>(RTA_LENGTH(size)), .rta_type = type});
  bytes_.append(static_cast<const char*>(data), size);
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

Result<NetlinkSocket> NetlinkSocket::open(int protocol) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd) return fail_errno(Fault::kIo, "socket(AF_NETLINK)");
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerLimit, sizeof kAnswerLimit) != 0) {
    return fail_errno(Fault::kIo, "setsockopt(SO_RCVTIMEO)");
  }
  return NetlinkSocket(std::move(fd));
}

Result<int> NetlinkSocket::request(const NetlinkRequest& request) {
  ZT_TRY(send(request, NLM_F_REQUEST | NLM_F_ACK));
  ZT_ASSIGN(const End end, receive([](const nlmsghdr&) {}));
  return end.error;
}

Result<int> NetlinkSocket::dump(const NetlinkRequest& request, const std::function<void(const nlmsghdr&)>& on_message,
                                const std::function<void()>& on_restart) {
  for (int i = 0; i < kDumpTries; ++i) {
    if (i > 0) on_restart();
    ZT_TRY(send(request, NLM_F_REQUEST | NLM_F_DUMP));
    ZT_ASSIGN(const End end, receive(on_message));
    if (!end.interrupted) return end.error;
  }
  return fail(Fault::kIo, fmt::format("netlink dump was interrupted {} times", kDumpTries));
}

Result<> NetlinkSocket::send(const NetlinkRequest& request, uint16_t flags) {
  std::string bytes = request.bytes_;
  nlmsghdr header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  header.nlmsg_len = static_cast<uint32_t>(bytes.size());
  header.nlmsg_flags |= flags;
  header.nlmsg_seq = ++sequence_;
  std::memcpy(bytes.data(), &header, sizeof header);
  const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (n != static_cast<ssize_t>(bytes.size())) return fail_errno(Fault::kIo, "netlink send");
  return {};
}

// Reads up to the acknowledgement or the dump's end.
Result<NetlinkSocket::End> NetlinkSocket::receive(const std::function<void(const nlmsghdr&)>& on_message) {
  End end;
  std::vector<char> buffer(kReceiveBuffer);
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(Fault::kIo, "netlink receive");
    if (static_cast<size_t>(n) > buffer.size()) return fail(Fault::kIo, "netlink answer does not fit the buffer");
    auto left = static_cast<uint32_t>(n);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_seq != sequence_) continue;  // of an exchange that was given up
      if ((message->nlmsg_flags & NLM_F_DUMP_INTR) != 0) end.interrupted = true;
      if (message->nlmsg_type == NLMSG_DONE) {
        if (message->nlmsg_len >= NLMSG_LENGTH(sizeof(int))) {
          int status = 0;
          std::memcpy(&status, NLMSG_DATA(message), sizeof status);
          end.error = status < 0 ? -status : 0;
        }
        return end;
      }
      if (message->nlmsg_type == NLMSG_ERROR) {
        if (message->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr))) return fail(Fault::kIo, "short netlink error");
        nlmsgerr error{};
        std::memcpy(&error, NLMSG_DATA(message), sizeof error);
        end.error = -error.error;
        return end;
      }
      on_message(*message);
    }
  }
}

void for_each_attribute(const nlmsghdr& message, size_t fixed_size,
                        const std::function<void(uint16_t, std::span<const std::byte>)>& on_attribute) {
  if (message.nlmsg_len < NLMSG_SPACE(fixed_size)) return;
  auto left = static_cast<int>(message.nlmsg_len - NLMSG_SPACE(fixed_size));
  const auto* at = reinterpret_cast<const std::byte*>(&message) + NLMSG_SPACE(fixed_size);
  while (left >= static_cast<int>(sizeof(rtattr))) {
    rtattr header{};
    std::memcpy(&header, at, sizeof header);
    if (header.rta_len < sizeof header || header.rta_len > left) return;
    on_attribute(header.rta_type & NLA_TYPE_MASK, std::span(at + sizeof header, header.rta_len - sizeof header));
    const auto step = static_cast<int>(NLMSG_ALIGN(header.rta_len));
    at += step;
    left -= step;
  }
}

uint32_t as_u32(std::span<const std::byte> bytes) {
  uint32_t value = 0;
  if (bytes.size() >= sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace zt
