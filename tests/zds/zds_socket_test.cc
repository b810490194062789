#include "zds/zds_socket.h"
#include "mesh/reason.h"

#include <sys/stat.h>
#include <sys/un.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "tests/support/netns/testing.h"

using namespace zt;
using namespace zt::zds;
using zt::testing::open_descriptors;
using zt::testing::socket_pair;
using zt::testing::TempDir;

namespace {
// Sends as a hostile peer would: any size, any number of descriptors.
void send_raw(int socket, std::string bytes, const std::vector<int>& fds = {}) {
  iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  REQUIRE(::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0);
}
}  // namespace

TEST_CASE("a packet and its descriptor arrive, close-on-exec") {
  const auto [a, b] = socket_pair();
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  REQUIRE(send_packet(a.get(), "hello", file.get()));
  auto packet = receive_packet(b.get());
  REQUIRE(packet);
  REQUIRE(*packet);
  CHECK((*packet)->bytes == "hello");
  REQUIRE((*packet)->fd);
  CHECK((::fcntl((*packet)->fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  struct stat sent{}, got{};
  ::fstat(file.get(), &sent);
  ::fstat((*packet)->fd.get(), &got);
  CHECK(sent.st_rdev == got.st_rdev);
}

TEST_CASE("nothing to read is no value, a closed peer is the end") {
  auto [a, b] = socket_pair();
  auto packet = receive_packet(b.get());
  REQUIRE(packet);
  CHECK_FALSE(*packet);
  a.reset();
  packet = receive_packet(b.get());
  REQUIRE(packet);
  REQUIRE(*packet);
  CHECK((*packet)->end_of_stream());
}

TEST_CASE("packets that break the descriptor rules leak none") {
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto [a, b] = socket_pair();
  struct Row {
    const char* name;
    std::string bytes;
    size_t descriptors;
    const char* why;
  };
  const Row row = GENERATE(Row{"two", "x", 2, "2 descriptors"}, Row{"as many as the kernel allows", "x", 253, "253 descriptors"},
                           Row{"a packet too long", std::string(1025, 'x'), 0, "longer than 1024"},
                           Row{"a packet too long, with one", std::string(2000, 'x'), 1, "longer than 1024"});
  INFO(row.name);
  const size_t before = open_descriptors();
  send_raw(a.get(), row.bytes, std::vector<int>(row.descriptors, file.get()));
  const auto packet = receive_packet(b.get());
  REQUIRE_FALSE(packet);
  CHECK(packet.error().reason == Reason::kInvalidInput);
  CHECK_THAT(packet.error().text, Catch::Contains(row.why));
  CHECK(open_descriptors() == before);
  // The connection itself still works, for the answer.
  CHECK(*send_packet(b.get(), "no"));
}

TEST_CASE("a packet of exactly 1024 bytes passes") {
  const auto [a, b] = socket_pair();
  REQUIRE(*send_packet(a.get(), std::string(1024, 'x')));
  CHECK((*receive_packet(b.get()))->bytes.size() == 1024);
  const auto longer = send_packet(a.get(), std::string(1025, 'x'));
  REQUIRE_FALSE(longer);
  CHECK_THAT(longer.error().text, Catch::Contains("1025 bytes"));
}

TEST_CASE("an empty packet with a descriptor is the end, and the descriptor is closed") {
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto [a, b] = socket_pair();
  const size_t before = open_descriptors();
  send_raw(a.get(), "", {file.get()});
  {
    const auto packet = receive_packet(b.get());
    REQUIRE(packet);
    CHECK((*packet)->end_of_stream());
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("a full socket asks for patience, a dead one does not") {
  auto [a, b] = socket_pair();
  const std::string bytes(1024, 'x');
  Result<bool> sent = true;
  for (int i = 0; i < 100'000 && sent && *sent; ++i) sent = send_packet(a.get(), bytes);
  REQUIRE(sent);
  CHECK_FALSE(*sent);
  b.reset();
  sent = send_packet(a.get(), bytes);
  REQUIRE_FALSE(sent);
  CHECK(sent.error().reason == Reason::kIo);
}

TEST_CASE("an add needs a descriptor, nothing else may have one") {
  CHECK(check_fd_rule(AddWorkload{}, true));
  CHECK(check_fd_rule(DelWorkload{}, false));
  CHECK_THAT(check_fd_rule(AddWorkload{}, false).error().text, Catch::Contains("add without"));
  CHECK_THAT(check_fd_rule(SnapshotSent{}, true).error().text, Catch::Contains("snapshot_sent with"));
}

TEST_CASE("the listening socket is root's alone and takes over from a dead one, not from a living one") {
  const TempDir dir;
  const std::string path = dir / "run/ztunnel/ztunnel.sock";
  CHECK_FALSE(connect_zds(path));
  auto listener = listen_zds(path);
  INFO(testing::error_text(listener));
  REQUIRE(listener);
  struct stat file{};
  REQUIRE(::stat(path.c_str(), &file) == 0);
  CHECK((file.st_mode & 0777) == 0600);
  const auto client = connect_zds(path);
  REQUIRE(client);

  const auto second = listen_zds(path);
  REQUIRE_FALSE(second);
  CHECK_THAT(second.error().text, Catch::Contains("another agent is running"));

  listener->reset();
  CHECK(std::filesystem::exists(path));
  CHECK(listen_zds(path));
}

TEST_CASE("a path that cannot be the socket is refused by name") {
  const TempDir dir;
  std::ofstream(dir / "file") << "precious";
  CHECK_THAT(listen_zds(dir / "file").error().text, Catch::Contains("exists and is not a socket"));
  CHECK(testing::read_file(dir / "file") == "precious");
  CHECK_THAT(listen_zds("").error().text, Catch::Contains("must have 1 to 107 bytes"));
  CHECK_THAT(connect_zds("/" + std::string(107, 'x')).error().text, Catch::Contains("must have 1 to 107 bytes"));
  CHECK_THAT(listen_zds(dir / "file/x/sock").error().text, Catch::Contains("directory"));
}
