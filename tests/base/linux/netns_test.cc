#include "base/linux/netns.h"

#include <net/if.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <csignal>

#include "mesh/reason.h"
#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt;
using zt::testing::make_netns;

TEST_CASE("a network namespace is known by device and inode") {
  const auto mine = Netns::current();
  REQUIRE(mine);
  const auto again = Netns::open("/proc/self/ns/net");
  REQUIRE(again);
  CHECK(mine->id() == again->id());
  const Netns other = make_netns();
  CHECK(mine->id() != other.id());
  CHECK(other.to_string() == "net:[" + std::to_string(other.id().inode) + "]");
}

TEST_CASE("what is not a network namespace is refused") {
  struct Row {
    const char* path;
    Reason reason;
    const char* why;
  };
  const Row row =
      GENERATE(Row{"/dev/null", Reason::kInvalidInput, "not a namespace"}, Row{"/", Reason::kInvalidInput, "not a namespace"},
               Row{"/proc/self/ns/mnt", Reason::kInvalidInput, "another type"},
               Row{"/run/netns/none such", Reason::kNotFound, "No such file"});
  INFO(row.path);
  const auto netns = Netns::open(row.path);
  REQUIRE_FALSE(netns);
  CHECK(netns.error().reason == row.reason);
  CHECK_THAT(netns.error().text, Catch::Contains(row.path) && Catch::Contains(row.why));
  CHECK_FALSE(Netns::from_fd(UniqueFd()));
}

TEST_CASE("root: a scope enters a namespace and comes back, whatever happens inside") {
  ZT_NEEDS_ROOT("entering namespaces");
  const auto home = Netns::current();
  const Netns pod = make_netns();
  const Netns inner = make_netns();
  {
    ScopedNetns scope;
    REQUIRE(scope.enter(pod));
    CHECK(Netns::current()->id() == pod.id());
    {
      ScopedNetns nested;
      REQUIRE(nested.enter(inner));
      CHECK(Netns::current()->id() == inner.id());
    }
    CHECK(Netns::current()->id() == pod.id());
  }
  CHECK(Netns::current()->id() == home->id());

  const auto failed = in_netns(pod, []() -> Result<int> { return fail(Reason::kIo, "no"); });
  CHECK_FALSE(failed);
  CHECK(Netns::current()->id() == home->id());
}

TEST_CASE("root: a socket made inside keeps belonging to the namespace") {
  ZT_NEEDS_ROOT("entering namespaces");
  const Netns pod = make_netns();
  const auto socket =
      in_netns(pod, []() -> Result<UniqueFd> { return UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  REQUIRE(socket);
  uint64_t cookie_inside = 0, cookie_outside = 0;
  socklen_t length = sizeof cookie_inside;
  REQUIRE(::getsockopt(socket->get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie_inside, &length) == 0);
  const UniqueFd own(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::getsockopt(own.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie_outside, &length) == 0);
  CHECK(cookie_inside != cookie_outside);
}

TEST_CASE("root: a thread that cannot come back ends the process with a sentence") {
  ZT_NEEDS_ROOT("entering namespaces");
  const Netns pod = make_netns();
  std::array<int, 2> pipe{};
  REQUIRE(::pipe2(pipe.data(), O_CLOEXEC) == 0);
  UniqueFd read_end(pipe[0]), write_end(pipe[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(write_end.get(), 2);
    ::signal(SIGABRT, SIG_DFL);
    ScopedNetns scope;
    if (!scope.enter(pod)) ::_exit(3);
    ::close_range(3, ~0u, 0);  // the way back goes with the other descriptors
    scope.~ScopedNetns();
    ::_exit(4);
  }
  write_end.reset();
  std::string said(1000, '\0');
  said.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(read_end.get(), said.data(), said.size()))));
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
  CHECK_THAT(said, Catch::Contains("cannot return to its own network namespace"));
}

TEST_CASE("root: the start-up check passes with all capabilities and names what is missing") {
  ZT_NEEDS_ROOT("dropping capabilities");
  CHECK(check_netns_privileges(1337));
}

TEST_CASE("without privileges the start-up check says which one to grant") {
  // In a child without any: another user than root, if we are root.
  std::array<int, 2> pipe{};
  REQUIRE(::pipe2(pipe.data(), O_CLOEXEC) == 0);
  const UniqueFd read_end(pipe[0]);
  UniqueFd write_end(pipe[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(1);
    const auto checked = check_netns_privileges(1337);
    const std::string text = checked ? "passed" : checked.error().text;
    ::_exit(::write(write_end.get(), text.data(), text.size()) < 0 ? 2 : 0);
  }
  write_end.reset();
  std::string said(1000, '\0');
  said.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(read_end.get(), said.data(), said.size()))));
  ::waitpid(child, nullptr, 0);
  CHECK_THAT(said, Catch::Contains("CAP_SYS_ADMIN") && Catch::Contains("securityContext.capabilities.add"));
}
