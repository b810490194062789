#include "base/file.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>

#include "tests/support/netns/testing.h"

namespace zt {

using testing::TempDir;

TEST_CASE("a file is read whole up to its limit, and not a byte more") {
  const TempDir dir;
  const std::string path = dir / "file";
  for (const size_t size : {size_t{0}, size_t{1}, size_t{99}, size_t{100}}) {
    const std::string text(size, 'x');
    std::ofstream(path) << text;
    CHECK(read_file(path, 100) == text);
  }
  std::ofstream(path) << std::string(101, 'x');
  const auto too_much = read_file(path, 100);
  REQUIRE_FALSE(too_much);
  CHECK(too_much.error().reason == Fault::kInvalidInput);
  CHECK(too_much.error().text == path + " is larger than 100 bytes");
}

TEST_CASE("a file that says nothing of its size is read all the same") {
  const auto status = read_file("/proc/self/status", 1 << 20);
  REQUIRE(status);
  CHECK(status->find("VmRSS") != std::string::npos);
  CHECK(read_file("/proc/self/status", 10).error().text == "/proc/self/status is larger than 10 bytes");
}

TEST_CASE("what is no file is refused at once, by its path") {
  const TempDir dir;
  const auto absent = read_file(dir / "none", 100);
  CHECK(absent.error().reason == Fault::kNotFound);
  CHECK(absent.error().text == "cannot read " + (dir / "none") + ": No such file or directory");
  REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(read_file(dir / "fifo", 100).error().text == (dir / "fifo") + " is not a regular file");
  CHECK(read_file("/", 100).error().text == "/ is not a regular file");
  CHECK_FALSE(file_version(dir / "none")->exists);
}

}  // namespace zt
