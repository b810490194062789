#pragma once
#include <libmnl/libmnl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

// Netlink messages by libmnl, as much as policy routes, socket lists and connection tracking need. One thread an object.
namespace zt {

// One request: header, the family's fixed part, attributes.
class NetlinkRequest {
 public:
  // `flags` beside those that sending it gives.
  template <class Body>
  NetlinkRequest(uint16_t type, uint16_t flags, const Body& body) {
    static_assert(MNL_NLMSG_HDRLEN + sizeof body <= kMaxBytes);
    nlmsghdr* const header = ::mnl_nlmsg_put_header(bytes_.data());
    header->nlmsg_type = type;
    header->nlmsg_flags = flags;
    std::memcpy(::mnl_nlmsg_put_extra_header(header, sizeof body), &body, sizeof body);
  }
  void attribute(uint16_t type, uint32_t value) { attribute(type, &value, sizeof value); }
  void attribute(uint16_t type, const void* data, size_t size) {
    fits_ &= ::mnl_attr_put_check(header(), kMaxBytes, type, size, data);
  }
  // What `fill` appends is inside of an attribute.
  template <class Fill>
  void nested(uint16_t type, Fill&& fill) {
    nlattr* const outer = ::mnl_attr_nest_start_check(header(), kMaxBytes, type);
    fits_ &= outer != nullptr;
    if (outer == nullptr) return;
    std::forward<Fill>(fill)();
    ::mnl_attr_nest_end(header(), outer);
  }

  [[nodiscard]] nlmsghdr* header() { return reinterpret_cast<nlmsghdr*>(bytes_.data()); }
  [[nodiscard]] const nlmsghdr* header() const { return reinterpret_cast<const nlmsghdr*>(bytes_.data()); }
  [[nodiscard]] bool fits() const { return fits_; }  // false: it is longer than any request that we make

 private:
  static constexpr size_t kMaxBytes = 256;
  alignas(nlmsghdr) std::array<std::byte, kMaxBytes> bytes_{};
  bool fits_ = true;
};

// A socket in the network namespace where open() was called.
class NetlinkSocket {
 public:
  static Result<NetlinkSocket> open(int protocol);

  // Sends the request and waits for the kernel's answer: 0, or the error number it gave (EEXIST, ENOENT, …
  // are the caller's to judge). An error means that the exchange itself failed.
  Result<int> request(NetlinkRequest request);
  // Calls `on_message` for every message of the dump. A dump that changed underneath is read again from its
  // start, after `on_restart`. Returns 0 or the kernel's error number.
  Result<int> dump(NetlinkRequest request, const std::function<void(const nlmsghdr&)>& on_message,
                   const std::function<void()>& on_restart);

 private:
  struct End {
    int error = 0;
    bool interrupted = false;
  };
  explicit NetlinkSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<> send(NetlinkRequest& request, uint16_t flags);
  Result<End> receive(const std::function<void(const nlmsghdr&)>& on_message);

  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

// The family's fixed part of a message; nullptr if the message is shorter.
template <class Body>
[[nodiscard]] const Body* body_of(const nlmsghdr& message) {
  return ::mnl_nlmsg_get_payload_len(&message) < sizeof(Body) ? nullptr
                                                              : static_cast<const Body*>(::mnl_nlmsg_get_payload(&message));
}

namespace detail {
template <class F>
int call_with(const nlattr* attribute, void* f) {
  (*static_cast<const F*>(f))(*attribute);
  return MNL_CB_OK;
}
template <class F>
void* opaque(const F& f) {
  return const_cast<void*>(static_cast<const void*>(&f));
}
}  // namespace detail

// The attributes after a message's fixed part, or inside of an attribute: calls `on_attribute(const nlattr&)` for each. Stops at
// the first malformed one.
template <class F>
void for_each_attribute(const nlmsghdr& message, size_t fixed_size, const F& on_attribute) {
  ::mnl_attr_parse(&message, static_cast<unsigned>(fixed_size), detail::call_with<F>, detail::opaque(on_attribute));
}
template <class F>
void for_each_attribute(const nlattr& outer, const F& on_attribute) {
  ::mnl_attr_parse_nested(&outer, detail::call_with<F>, detail::opaque(on_attribute));
}
// The attribute as a 32-bit number; 0 if it is shorter.
[[nodiscard]] inline uint32_t as_u32(const nlattr& attribute) {
  return ::mnl_attr_validate(&attribute, MNL_TYPE_U32) < 0 ? 0 : ::mnl_attr_get_u32(&attribute);
}

}  // namespace zt
