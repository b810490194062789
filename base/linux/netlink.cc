#include "base/linux/netlink.h"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <vector>

namespace zt {

namespace {
constexpr size_t kReceiveBuffer = 64u << 10;
// The kernel answers within the call; this only keeps a bug from hanging the agent.
constexpr timeval kAnswerLimit{.tv_sec = 5, .tv_usec = 0};
constexpr int kDumpTries = 5;
}  // namespace

Result<NetlinkSocket> NetlinkSocket::open(int protocol) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd) return fail_errno(Fault::kIo, "socket(AF_NETLINK)");
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerLimit, sizeof kAnswerLimit) != 0) {
    return fail_errno(Fault::kIo, "setsockopt(SO_RCVTIMEO)");
  }
  return NetlinkSocket(std::move(fd));
}

Result<int> NetlinkSocket::request(NetlinkRequest request) {
  ZT_TRY(send(request, NLM_F_REQUEST | NLM_F_ACK));
  ZT_ASSIGN(const End end, receive([](const nlmsghdr&) {}));
  return end.error;
}

Result<int> NetlinkSocket::dump(NetlinkRequest request, const std::function<void(const nlmsghdr&)>& on_message,
                                const std::function<void()>& on_restart) {
  for (int i = 0; i < kDumpTries; ++i) {
    if (i > 0) on_restart();
    ZT_TRY(send(request, NLM_F_REQUEST | NLM_F_DUMP));
    ZT_ASSIGN(const End end, receive(on_message));
    if (!end.interrupted) return end.error;
  }
  return fail(Fault::kIo, fmt::format("netlink dump was interrupted {} times", kDumpTries));
}

Result<> NetlinkSocket::send(NetlinkRequest& request, uint16_t flags) {
  if (!request.fits()) return fail(Fault::kInternal, "netlink request too long");
  nlmsghdr* const header = request.header();
  header->nlmsg_flags |= flags;
  header->nlmsg_seq = ++sequence_;
  const ssize_t n = ::send(fd_.get(), header, header->nlmsg_len, MSG_NOSIGNAL);
  if (n != static_cast<ssize_t>(header->nlmsg_len)) return fail_errno(Fault::kIo, "netlink send");
  return {};
}

// Reads up to the acknowledgement or the dump's end. Not mnl_cb_run(): it leaves the rest of an interrupted dump unread, and does
// not tell the error that ends a dump.
Result<NetlinkSocket::End> NetlinkSocket::receive(const std::function<void(const nlmsghdr&)>& on_message) {
  End end;
  std::vector<char> buffer(kReceiveBuffer);
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(Fault::kIo, "netlink receive");
    if (static_cast<size_t>(n) > buffer.size()) return fail(Fault::kIo, "netlink answer does not fit the buffer");
    auto left = static_cast<int>(n);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data()); ::mnl_nlmsg_ok(message, left);
         message = ::mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq != sequence_) continue;  // of an exchange that was given up
      if ((message->nlmsg_flags & NLM_F_DUMP_INTR) != 0) end.interrupted = true;
      if (message->nlmsg_type == NLMSG_DONE) {
        if (const int* status = body_of<int>(*message); status != nullptr && *status < 0) end.error = -*status;
        return end;
      }
      if (message->nlmsg_type == NLMSG_ERROR) {
        const auto* error = body_of<nlmsgerr>(*message);
        if (error == nullptr) return fail(Fault::kIo, "short netlink error");
        end.error = -error->error;
        return end;
      }
      on_message(*message);
    }
  }
}

}  // namespace zt
