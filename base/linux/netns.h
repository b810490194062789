#pragma once
#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

// Linux network namespaces: what a pod is, seen from the node. Contract §8.5.
namespace zt {

// Owns a descriptor of a network namespace and so keeps the namespace alive. Immutable once made: may be
// shared by threads.
class Netns {
 public:
  // Two descriptors are the same namespace exactly if these are equal.
  struct Id {
    dev_t device = 0;
    ino_t inode = 0;
    friend auto operator<=>(const Id&, const Id&) = default;
  };

  // Takes a descriptor as received from a peer. kInvalidInput: it is not a network namespace (the text says
  // what it is).
  [[nodiscard]] static Result<Netns> from_fd(UniqueFd fd);
  // Opens "/run/netns/<name>", "/proc/<pid>/ns/net" and the like; never creates one. kNotFound,
  // kInvalidInput, kIo.
  [[nodiscard]] static Result<Netns> open(const std::string& path);
  // The calling thread's.
  [[nodiscard]] static Result<Netns> current();

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] Id id() const { return id_; }
  [[nodiscard]] std::string to_string() const;  // "net:[4026531840]", as the kernel's links read

 private:
  Netns(UniqueFd fd, Id id) : fd_(std::move(fd)), id_(id) {}
  UniqueFd fd_;
  Id id_;
};

// The calling thread inside a namespace, from enter() to the end of the scope. Sockets made there belong to
// the namespace for good and are used from outside, so the scope holds just their creation: no suspension, no
// call-back, nothing that waits. May be nested. A thread that cannot come back would serve other pods from
// this one's namespace: that aborts the process.
class ScopedNetns {
 public:
  ScopedNetns() = default;
  ~ScopedNetns();
  ScopedNetns(const ScopedNetns&) = delete;
  ScopedNetns& operator=(const ScopedNetns&) = delete;

  // On failure the thread is where it was. Once per object.
  Result<> enter(const Netns& netns);

 private:
  UniqueFd home_;
};

// Moves the calling thread into the namespace for the rest of its life.
Result<> enter_for_good(const Netns& netns);

// Runs `make` (returning a Result) inside the namespace, on this thread, and returns what it returned.
template <class F>
[[nodiscard]] std::invoke_result_t<F> in_netns(const Netns& netns, F&& make) {
  ScopedNetns scope;
  if (auto entered = scope.enter(netns); !entered) return std::unexpected(std::move(entered).error());
  return std::forward<F>(make)();
}

namespace detail {
// Fails without having called `work`, or calls it.
Result<> run_in_netns_thread(const Netns& netns, const std::function<void()>& work);
}  // namespace detail

// The same on a thread of its own that never comes back, and waits for it: for longer work with libraries
// that make their own sockets (netlink, libnftables). The calling thread stays at home.
template <class F>
[[nodiscard]] std::invoke_result_t<F> in_netns_thread(const Netns& netns, F&& work) {
  std::optional<std::invoke_result_t<F>> result;
  const auto ran = detail::run_in_netns_thread(netns, [&] { result.emplace(std::forward<F>(work)()); });
  if (!ran) return std::unexpected(ran.error());
  return std::move(*result);
}

// What the shared mode stands on, tried at start so that a missing capability is named at once and not at the
// first pod: setns() to the own namespace and SO_MARK `mark` on a socket. The text names the capability and
// where to grant it.
[[nodiscard]] Result<> check_netns_privileges(uint32_t mark);

}  // namespace zt
