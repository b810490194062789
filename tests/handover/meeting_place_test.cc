#include "handover/meeting_place.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "mesh/reason.h"

using namespace zt;
using namespace zt::handover;
using namespace std::chrono_literals;

namespace {

struct Folder {
  Folder() {
    char name[] = "/tmp/zt-meeting-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  [[nodiscard]] std::string place() const { return path / "successor.sock"; }
  std::filesystem::path path;
};

struct Process {
  EventLoop& loop;
  std::vector<UniqueFd> visitors;
  std::unique_ptr<MeetingPlace> place;
  Process(EventLoop& in, const std::string& path) : loop(in) {
    auto taken = MeetingPlace::take(loop, path, [this](UniqueFd visitor) { visitors.push_back(std::move(visitor)); });
    REQUIRE(taken);
    place = std::move(*taken);
  }
};

}  // namespace

TEST_CASE("whoever is at the meeting place is the one that came last") {
  Folder folder;
  EventLoop loop;
  CHECK(visit(folder.place()).error().reason == Reason::kNotFound);
  Process first(loop, folder.place());
  CHECK(first.place->is_ours());
  Process second(loop, folder.place());
  CHECK_FALSE(first.place->is_ours());
  CHECK(second.place->is_ours());
  const auto fd = visit(folder.place());
  REQUIRE(fd);
  REQUIRE(loop.run_until([&] { return !second.visitors.empty(); }, 10s));
  CHECK(first.visitors.empty());
  // One that goes does not take the other's place away.
  first.place.reset();
  CHECK(visit(folder.place()));
  second.place.reset();
  CHECK(visit(folder.place()).error().reason == Reason::kNotFound);
  CHECK(std::filesystem::is_empty(folder.path));
}

TEST_CASE("a place whose process is dead is nobody's") {
  Folder folder;
  {
    sockaddr_un address{};
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address.sun_family = AF_UNIX;
    folder.place().copy(address.sun_path, sizeof address.sun_path - 1);
    REQUIRE(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::chmod(folder.place().c_str(), 0600) == 0);
  }
  CHECK(visit(folder.place()).error().reason == Reason::kNotFound);
  EventLoop loop;
  Process next(loop, folder.place());
  CHECK(visit(folder.place()));
}

TEST_CASE("a place that is not ours is not entered") {
  Folder folder;
  EventLoop loop;
  Process process(loop, folder.place());
  SECTION("open to others") {
    REQUIRE(::chmod(folder.place().c_str(), 0666) == 0);
    CHECK_THAT(visit(folder.place()).error().text, Catch::Contains("open to others"));
  }
  SECTION("a file") {
    std::filesystem::remove(folder.place());
    std::ofstream(folder.place()) << "x";
    CHECK_THAT(visit(folder.place()).error().text, Catch::Contains("no socket"));
  }
  SECTION("a link to one that would do") {
    std::filesystem::rename(folder.place(), folder.path / "real");
    std::filesystem::create_symlink("real", folder.place());
    CHECK_THAT(visit(folder.place()).error().text, Catch::Contains("no socket"));
  }
  SECTION("another user's") {
    if (geteuid() != 0) return;
    REQUIRE(::chown(folder.place().c_str(), 4711, 4711) == 0);
    CHECK_THAT(visit(folder.place()).error().text, Catch::Contains("belongs to user 4711"));
  }
  CHECK(process.visitors.empty());
}

TEST_CASE("the socket at the meeting place is for its owner alone") {
  Folder folder;
  EventLoop loop;
  const mode_t before = ::umask(0);
  Process process(loop, folder.place());
  ::umask(before);
  struct stat info{};
  REQUIRE(::lstat(folder.place().c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
}

TEST_CASE("a meeting place that cannot be had is an error that names it, and leaves nothing behind") {
  Folder folder;
  EventLoop loop;
  const auto take = [&](const std::string& path) { return MeetingPlace::take(loop, path, [](UniqueFd) {}).error().text; };
  CHECK_THAT(take(folder.path / "missing/successor.sock"), Catch::Contains("missing/successor.sock"));
  CHECK_THAT(take(folder.path / std::string(120, 'x')), Catch::Contains("1 to 107 bytes"));
  // A directory is in the way: the rename fails, and the socket that was made goes.
  std::filesystem::create_directory(folder.path / "taken");
  CHECK_THAT(take(folder.path / "taken"), Catch::Contains("rename"));
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}
