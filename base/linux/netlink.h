#pragma once
#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

// As much netlink as policy routes and socket lists need. One thread an object.
namespace zt {

// One request: header, the family's fixed part, attributes.
class NetlinkRequest {
 public:
  // `flags` beside NLM_F_REQUEST.
  template <class Body>
  NetlinkRequest(uint16_t type, uint16_t flags, const Body& body) {
    append(nlmsghdr{.nlmsg_len = 0, .nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = 0, .nlmsg_pid = 0});
    append(body);
  }
  void attribute(uint16_t type, uint32_t value) { attribute(type, &value, sizeof value); }
  void attribute(uint16_t type, const void* data, size_t size);

 private:
  friend class NetlinkSocket;
  template <class T>
  void append(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  std::string bytes_;
};

// A socket in the network namespace where open() was called.
class NetlinkSocket {
 public:
  static Result<NetlinkSocket> open(int protocol);

  // Sends the request and waits for the kernel's answer: 0, or the error number it gave (EEXIST, ENOENT, …
  // are the caller's to judge). An error means that the exchange itself failed.
  Result<int> request(const NetlinkRequest& request);
  // Calls `on_message` for every message of the dump. A dump that changed underneath is read again from its
  // start, after `on_restart`. Returns 0 or the kernel's error number.
  Result<int> dump(const NetlinkRequest& request, const std::function<void(const nlmsghdr&)>& on_message,
                   const std::function<void()>& on_restart);

 private:
  explicit NetlinkSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<> send(const NetlinkRequest& request, uint16_t flags);
  struct End {
    int error = 0;
    bool interrupted = false;
  };
  Result<End> receive(const std::function<void(const nlmsghdr&)>& on_message);

  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

// The attributes after a message's fixed part: calls `on_attribute(type, bytes)` for each. Stops at the first
// malformed one.
void for_each_attribute(const nlmsghdr& message, size_t fixed_size,
                        const std::function<void(uint16_t, std::span<const std::byte>)>& on_attribute);
// The attribute as a 32-bit number; 0 if it is shorter.
[[nodiscard]] uint32_t as_u32(std::span<const std::byte> bytes);

}  // namespace zt
