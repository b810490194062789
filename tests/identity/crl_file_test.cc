#include "identity/crl_file.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "tests/identity/support.h"
#include "tests/support/crl.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

struct Watched {
  EventLoop loop;
  TempDir directory;
  TestCa ca{wall_clock_now()};
  std::string path = directory.file("ca.crl");
  std::vector<size_t> seen;  // entries of each version handed on
  std::unique_ptr<CrlFile> file;

  void start() {
    file =
        std::make_unique<CrlFile>(loop, path, [this](const RevocationListsPtr& lists) { seen.push_back(lists->entries()); }, 5ms);
    file->start();
  }
  std::string list(size_t entries) {
    const auto certificate = ca.issue(id_of("cart"), 1h, wall_clock_now());
    X509CrlPtr made = entries == 0   ? make_crl(ca.root(), ca.key(), {})
                      : entries == 1 ? make_crl(ca.root(), ca.key(), {certificate->leaf()})
                                     : make_crl(ca.root(), ca.key(), {certificate->leaf(), ca.root()});
    return pem_of(made.get());
  }
  bool until_seen(std::vector<size_t> expected) {
    return loop.run_until([&] { return seen == expected; }, 5s);
  }
  bool until_refused(uint64_t times) {
    return loop.run_until([&] { return file->refused() == times; }, 5s);
  }
};

TEST_CASE("revocation lists are read at start and after each edit, whichever way it is made") {
  Watched w;
  write_file(w.path, w.list(1));
  w.start();
  CHECK(w.seen == std::vector<size_t>{1});
  write_file(w.path, w.list(2));
  CHECK(w.until_seen({1, 2}));
  write_file(w.directory.file("new"), w.list(1));
  std::filesystem::rename(w.directory.file("new"), w.path);
  CHECK(w.until_seen({1, 2, 1}));
  write_file(w.path, "");
  CHECK(w.until_seen({1, 2, 1, 0}));
}

TEST_CASE("the swapped link of a mounted ConfigMap is an edit") {
  Watched w;
  std::filesystem::create_directory(w.directory.file("..1"));
  std::filesystem::create_directory(w.directory.file("..2"));
  write_file(w.directory.file("..1/ca.crl"), w.list(1));
  write_file(w.directory.file("..2/ca.crl"), w.list(2));
  std::filesystem::create_symlink("..1", w.directory.file("..data"));
  std::filesystem::create_symlink("..data/ca.crl", w.path);
  w.start();
  REQUIRE(w.seen == std::vector<size_t>{1});
  std::filesystem::create_symlink("..2", w.directory.file("..data_tmp"));
  std::filesystem::rename(w.directory.file("..data_tmp"), w.directory.file("..data"));
  CHECK(w.until_seen({1, 2}));
}

TEST_CASE("a file that comes later is taken when it comes") {
  Watched w;
  w.start();
  CHECK(w.file->refused() == 1);
  write_file(w.path, w.list(1));
  CHECK(w.until_seen({1}));
}

TEST_CASE("a damaged or vanished file leaves the last good lists in force") {
  Watched w;
  write_file(w.path, w.list(1));
  w.start();
  write_file(w.path, "nonsense");
  CHECK(w.until_refused(1));
  std::filesystem::remove(w.path);
  CHECK(w.until_refused(2));
  CHECK(w.seen == std::vector<size_t>{1});
  write_file(w.path, w.list(2));
  CHECK(w.until_seen({1, 2}));
}

TEST_CASE("what cannot be a file of lists is refused at start without hanging") {
  for (const bool fifo : {false, true}) {
    Watched w;
    if (fifo) {
      REQUIRE(::mkfifo(w.path.c_str(), 0600) == 0);
    } else {
      std::filesystem::create_directory(w.path);
    }
    w.start();
    CHECK(w.file->refused() + w.file->applied() == 1);
    CHECK((w.seen.empty() || w.seen == std::vector<size_t>{0}));
  }
}

}  // namespace
}  // namespace zt::identity
