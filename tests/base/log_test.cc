#include "base/log.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "base/log_filter.h"
#include "base/log_format.h"
#include "base/log_ring.h"
#include "base/unique_fd.h"

using namespace zt;
using log::Field;
using log::Format;
using log::Level;

namespace {

constexpr log::LineTime kTime{1795402242, 264671};  // 2026-11-23T02:50:42.264671Z

std::string line(Format format, std::string_view message, std::vector<Field> fields = {}, std::string_view target = "proxy",
                 Level level = Level::kInfo) {
  std::string out;
  log::format_line(out, format, kTime, level, target, message, fields);
  REQUIRE(out.back() == '\n');
  out.pop_back();
  return out;
}

struct Pipe {
  Pipe() {
    int fds[2];
    REQUIRE(::pipe2(fds, O_CLOEXEC) == 0);
    reader.reset(fds[0]);
    writer.reset(fds[1]);
  }
  // Everything up to end of file; the writing end is closed first.
  std::string read_all() {
    writer.reset();
    std::string text;
    char buffer[65536];
    for (ssize_t n; (n = ::read(reader.get(), buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    return text;
  }
  UniqueFd reader, writer;
};

size_t count_of(std::string_view text, std::string_view what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + what.size())) ++count;
  return count;
}

log::Scope test_scope("log_test");
log::Scope access_scope("access");

}  // namespace

TEST_CASE("plain lines have time, level, target, message and fields between tabs") {
  CHECK(line(Format::kPlain, "listener established",
             {Field::bare("address", "[::]:15008"), Field::string("component", "inbound"), Field::flag("transparent", true),
              Field::count("bytes_sent", 57)},
             "proxy::inbound") ==
        "2026-11-23T02:50:42.264671Z\tinfo\tproxy::inbound\tlistener established\t"
        "address=[::]:15008 component=\"inbound\" transparent=true bytes_sent=57");
}

TEST_CASE("a plain line without fields ends with a tab, as the peer's does") {
  CHECK(line(Format::kPlain, "shared proxy mode", {}, "app", Level::kWarn) ==
        "2026-11-23T02:50:42.264671Z\twarn\tapp\tshared proxy mode\t");
}

TEST_CASE("json lines carry the full scope, except for access and ztunnel") {
  CHECK(line(Format::kJson, "listener established",
             {Field::bare("address", "[::]:15008"), Field::string("component", "inbound"), Field::flag("transparent", true)},
             "proxy::inbound") ==
        R"({"level":"info","time":"2026-11-23T02:50:42.264671Z","scope":"ztunnel::proxy::inbound",)"
        R"("message":"listener established","address":"[::]:15008","component":"inbound","transparent":true})");
  CHECK(line(Format::kJson, "m", {Field::count("n", -3)}, "access") ==
        R"({"level":"info","time":"2026-11-23T02:50:42.264671Z","scope":"access","message":"m","n":-3})");
  CHECK_THAT(line(Format::kJson, "m", {}, "ztunnel"), Catch::Contains(R"("scope":"ztunnel")"));
}

TEST_CASE("text in fields is escaped in both forms") {
  using Row = std::tuple<const char*, std::string, std::string, std::string>;
  const auto [name, text, plain, json] = GENERATE(table<const char*, std::string, std::string, std::string>({
      Row{"quotes and backslashes", R"(a"b\c)", R"("a\"b\\c")", R"("a\"b\\c")"},
      Row{"line breaks cannot forge a line", "a\nb\r\tc", R"("a\nb\r\tc")", R"("a\nb\r\tc")"},
      Row{"control characters", std::string("\0\x1b\x7f", 3), R"("\0\u{1b}\u{7f}")", "\"\\u0000\\u001b\x7f\""},
      Row{"backspace and form feed", "\b\f", R"("\u{8}\u{c}")", R"("\b\f")"},
      Row{"UTF-8 stays", "zürich \u4e2d \U0001f600", "\"zürich \u4e2d \U0001f600\"", "\"zürich \u4e2d \U0001f600\""},
      Row{"bytes that are not UTF-8", "a\xff\xc0\x80z", "\"a\ufffd\ufffd\ufffdz\"", "\"a\ufffd\ufffd\ufffdz\""},
      Row{"surrogates are not UTF-8", "\xed\xa0\x80", "\"\ufffd\ufffd\ufffd\"", "\"\ufffd\ufffd\ufffd\""},
      Row{"a sequence cut short", "\xe4\xb8", "\"\ufffd\ufffd\"", "\"\ufffd\ufffd\""},
  }));
  INFO(name);
  CHECK_THAT(line(Format::kPlain, "m", {Field::string("k", text)}), Catch::EndsWith("\tk=" + plain));
  CHECK_THAT(line(Format::kJson, "m", {Field::string("k", text)}), Catch::EndsWith("\"k\":" + json + "}"));
}

TEST_CASE("a message may have several lines in plain form, and no other control characters") {
  CHECK_THAT(line(Format::kPlain, "config:\na: \"1\"\x1b[0m"), Catch::Contains("config:\na: \"1\"\\u{1b}[0m"));
  CHECK_THAT(line(Format::kJson, "config:\na: \"1\""), Catch::Contains(R"("message":"config:\na: \"1\"")"));
}

TEST_CASE("bare values cannot forge a line or a tab") {
  CHECK_THAT(line(Format::kPlain, "m", {Field::bare("k", "a\nb\tc")}), Catch::EndsWith(R"(k=a\nb\tc)"));
}

TEST_CASE("a long line is cut, marked and still well-formed") {
  const std::string long_text(log::kMaxLineBytes * 2, 'x');
  const std::string quotes(log::kMaxLineBytes, '"');
  const std::string wide = [] {
    std::string text;
    while (text.size() < log::kMaxLineBytes * 2) text += "\u4e2d";
    return text;
  }();
  for (const auto& text : {long_text, quotes, wide}) {
    for (const auto format : {Format::kPlain, Format::kJson}) {
      const auto message_cut = line(format, text, {Field::string("k", "v")});
      CHECK(message_cut.size() <= log::kMaxLineBytes);
      CHECK(message_cut.size() > log::kMaxLineBytes - 64);
      CHECK_THAT(message_cut, Catch::EndsWith(format == Format::kJson ? "\u2026\"}" : "\u2026"));
      const auto field_cut = line(format, "m", {Field::string("k", text), Field::string("l", "v")});
      CHECK(field_cut.size() <= log::kMaxLineBytes);
      CHECK_THAT(field_cut, Catch::EndsWith(format == Format::kJson ? "\u2026\"}" : "\u2026\""));
    }
  }
}

TEST_CASE("a line with too many fields is cut between two of them") {
  const std::string value(1000, 'v');
  const std::vector<Field> fields(100, Field::string("key", value));
  const auto plain = line(Format::kPlain, "m", fields);
  CHECK(plain.size() <= log::kMaxLineBytes);
  const auto json = line(Format::kJson, "m", fields);
  CHECK(json.size() <= log::kMaxLineBytes);
  CHECK_THAT(json, Catch::EndsWith("}"));
  CHECK_THAT(json, Catch::Contains("\u2026"));
}

TEST_CASE("filters: the longest matching target decides") {
  struct Row {
    const char* spec;
    const char* target;
    Level level;
  };
  const auto row = GENERATE(values<Row>({
      {"info", "proxy", Level::kInfo},
      {"info,proxy=debug", "proxy::inbound", Level::kDebug},
      {"info,proxy=debug", "proxyfactory", Level::kInfo},
      {"info,proxy:debug", "proxy", Level::kDebug},
      {"info,ztunnel::proxy:debug", "proxy::inbound", Level::kDebug},
      {"info,ztunnel::proxy::inbound=trace,proxy=warn", "proxy::inbound", Level::kTrace},
      {"ztunnel=debug,warn", "xds", Level::kDebug},
      {"ztunnel=debug,warn", "access", Level::kWarn},
      {"access=off,info", "access", Level::kOff},
      {"info,debug", "xds", Level::kDebug},
      {"access=debug,info,access=error", "access", Level::kError},
      {"DEBUG", "xds", Level::kDebug},
      {" info , xds = trace ,", "xds", Level::kTrace},
      {"", "xds", Level::kOff},
  }));
  INFO(row.spec << " for " << row.target);
  const auto filter = log::FilterSpec::parse(row.spec);
  REQUIRE(filter);
  CHECK(filter->level_for(row.target) == row.level);
}

TEST_CASE("bad filters are refused with the clause named") {
  using Row = std::tuple<const char*, const char*>;
  const auto [spec, text] = GENERATE(table<const char*, const char*>({
      Row{"bogus", R"(unknown log level "bogus" in clause "bogus")"},
      Row{"info,access=verbose", R"(unknown log level "verbose" in clause "access=verbose")"},
      Row{"access:", R"(unknown log level "" in clause "access:")"},
      Row{"=debug", R"(bad log target "" in clause "=debug")"},
      Row{"a b=debug", R"(bad log target "a b" in clause "a b=debug")"},
      Row{"ztunnel::proxy", R"(unknown log level "ztunnel::proxy" in clause "ztunnel::proxy")"},
  }));
  const auto filter = log::FilterSpec::parse(spec);
  REQUIRE_FALSE(filter);
  CHECK(filter.error().text == text);
  CHECK_FALSE(log::FilterSpec::parse(std::string(log::FilterSpec::kMaxSpecBytes + 1, 'a')));
}

TEST_CASE("the current filter is shown as the peer shows it, and reset goes back to what was set") {
  REQUIRE(log::set_filter("hickory_server::server=off,info,access=debug"));
  CHECK(log::current_filter() == "hickory_server::server=off,access=debug,info");
  CHECK(access_scope.enabled(Level::kDebug));
  CHECK_FALSE(test_scope.enabled(Level::kDebug));
  REQUIRE(log::append_filter("debug"));
  CHECK(log::current_filter() == "hickory_server::server=off,access=debug,debug");
  CHECK(test_scope.enabled(Level::kDebug));
  CHECK_FALSE(log::append_filter("nonsense"));
  CHECK(log::current_filter() == "hickory_server::server=off,access=debug,debug");
  log::reset_filter();
  CHECK(log::current_filter() == "hickory_server::server=off,access=debug,info");
  REQUIRE(log::set_filter("info"));
}

TEST_CASE("a level alone is meant for every target, also those that were given levels before") {
  REQUIRE(log::append_filter("access=trace,xds=debug"));
  CHECK(access_scope.enabled(Level::kTrace));
  REQUIRE(log::append_filter("off"));
  CHECK(log::current_filter() == "off");
  CHECK_FALSE(access_scope.enabled(Level::kError));
  REQUIRE(log::append_filter("debug,access=warn"));  // not alone
  REQUIRE(log::append_filter("xds=info"));
  CHECK(log::current_filter() == "access=warn,xds=info,debug");
  log::reset_filter();
  CHECK(log::current_filter() == "info");
}

TEST_CASE("append refuses to grow the filter without end") {
  for (int i = 0; i < 400; ++i) (void)log::append_filter("target" + std::to_string(i) + "=debug");
  CHECK(count_of(log::current_filter(), ",") < log::FilterSpec::kMaxDirectives);
  log::reset_filter();
}

TEST_CASE("the ring keeps order, is bounded in lines and in bytes") {
  log::Ring ring(4, 100);
  const auto push = [&](std::string text) { return ring.push(text); };
  for (int round = 0; round < 3; ++round) {
    CHECK(push("1"));
    CHECK(push("2"));
    CHECK(push("3"));
    CHECK(push("4"));
    CHECK_FALSE(push("5"));
    std::string text;
    for (const char* expected : {"1", "2", "3", "4"}) {
      REQUIRE(ring.pop(text));
      CHECK(text == expected);
    }
    CHECK_FALSE(ring.pop(text));
  }
  CHECK(push(std::string(60, 'x')));
  CHECK_FALSE(push(std::string(60, 'x')));
  CHECK(push(std::string(40, 'x')));
}

TEST_CASE("lines of many threads all arrive, each whole") {
  Pipe pipe;
  log::start(pipe.writer.get(), Format::kPlain);
  std::string received;
  std::thread consumer([&] {
    char buffer[65536];
    for (ssize_t n; (n = ::read(pipe.reader.get(), buffer, sizeof buffer)) > 0;) received.append(buffer, static_cast<size_t>(n));
  });
  constexpr int kThreads = 4;
  constexpr int kLines = 1000;
  const uint64_t dropped = log::dropped_lines();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < kLines; ++i) ZT_LOG(test_scope, kInfo, "line", Field::count("thread", t), Field::count("i", i));
    });
  }
  for (auto& thread : threads) thread.join();
  log::stop();
  pipe.writer.reset();
  consumer.join();
  CHECK(log::dropped_lines() == dropped);
  CHECK(count_of(received, "\n") == kThreads * kLines);
  for (int t = 0; t < kThreads; ++t) {
    size_t at = 0;
    for (int i = 0; i < kLines; ++i) {
      at = received.find("\tline\tthread=" + std::to_string(t) + " i=" + std::to_string(i) + "\n", at);
      REQUIRE(at != std::string::npos);
    }
  }
}

TEST_CASE("a blocked reader costs lines, which are counted and reported, and never blocks the caller") {
  Pipe pipe;
  const uint64_t before = log::dropped_lines();
  log::start(pipe.writer.get(), Format::kPlain);
  constexpr size_t kLines = log::kRingLines + 5000;  // ring and pipe together hold less
  for (size_t i = 0; i < kLines; ++i) {
    ZT_LOG(test_scope, kInfo, "a line that nobody reads", Field::count("i", static_cast<int64_t>(i)));
  }
  const uint64_t dropped = log::dropped_lines() - before;
  CHECK(dropped > 0);
  std::string received;
  std::thread consumer([&] {
    char buffer[65536];
    for (ssize_t n; (n = ::read(pipe.reader.get(), buffer, sizeof buffer)) > 0;) received.append(buffer, static_cast<size_t>(n));
  });
  log::stop();
  pipe.writer.reset();
  consumer.join();
  CHECK(count_of(received, "nobody reads") == kLines - dropped);
  CHECK_THAT(received, Catch::Contains("\twarn\tlog\tlog lines dropped, the queue was full\tcount=" + std::to_string(dropped)));
}

TEST_CASE("a reader that has gone away is no reason to die") {
  Pipe pipe;
  log::start(pipe.writer.get(), Format::kJson);
  pipe.reader.reset();
  const uint64_t before = log::dropped_lines();
  ZT_LOG(test_scope, kInfo, "into the void");
  log::stop();
  CHECK(log::dropped_lines() == before + 1);
}

TEST_CASE("disabled lines do not evaluate their arguments, stop is idempotent") {
  int evaluated = 0;
  const auto costly = [&] { return ++evaluated; };
  ZT_LOG(test_scope, kDebug, "never", Field::count("n", costly()));
  CHECK(evaluated == 0);
  log::stop();
  log::stop();
}

TEST_CASE("a reader that reads nothing does not keep the process from ending") {
  // In a process of its own: the writer of this one must not be lost for the other tests.
  Pipe pipe;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    log::start(pipe.writer.get(), Format::kPlain);
    const std::string text(1000, 'x');
    for (int i = 0; i < 1000; ++i) log::write(test_scope, Level::kError, text);
    log::stop();
    log::write(test_scope, Level::kError, "and what comes after it blocks nobody either");
    ::_exit(0);
  }
  int status = -1;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (::waitpid(child, &status, WNOHANG) == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (status == -1) ::kill(child, SIGKILL);
  CHECK(status == 0);
}
