#include "base/yaml/writer.h"

#include <catch2/catch.hpp>
#include <functional>
#include <string>

#include "base/yaml/reader.h"

namespace zt::yaml {
namespace {

std::string written(const std::function<void(Writer&)>& write) {
  std::string out;
  Writer writer(out);
  write(writer);
  writer.finish();
  return out;
}

}  // namespace

TEST_CASE("maps, lists and tags are written as blocks, what is empty in brackets") {
  CHECK(written([](Writer& out) {
          out.begin_map();
          out.string("a");
          out.begin_list();
          out.plain("1");
          out.begin_map();
          out.string("b");
          out.plain("true");
          out.string("c");
          out.begin_list("!Of");
          out.plain("null");
          out.end_list();
          out.end_map();
          out.end_list();
          out.string("none");
          out.begin_map();
          out.end_map();
          out.string("nobody");
          out.begin_list();
          out.end_list();
          out.string("tagged");
          out.string("/path with: a colon", "!File");
          out.end_map();
        }) == R"(a:
- 1
- b: true
  c: !Of
  - null
none: {}
nobody: []
tagged: !File '/path with: a colon'
)");
}

TEST_CASE("a text that is written is read back as that text, whatever it looks like") {
  using namespace std::string_literals;
  for (const std::string& text : {""s,
                                  "a"s,
                                  "true"s,
                                  "Null"s,
                                  "~"s,
                                  "12"s,
                                  "1.5e3"s,
                                  "0x1f"s,
                                  "12:30"s,
                                  "- a"s,
                                  "a: b"s,
                                  "a #b"s,
                                  " a"s,
                                  "a "s,
                                  "[a"s,
                                  "{a"s,
                                  "it's"s,
                                  "\"q\""s,
                                  "a\nb"s,
                                  "a\tb"s,
                                  "\x01"s,
                                  "ä€"s,
                                  "!x"s,
                                  "&x"s,
                                  "*x"s,
                                  "%x"s,
                                  "@x"s,
                                  "?"s,
                                  "-"s,
                                  ":"s,
                                  "a:"s,
                                  "1.2.3.4"s,
                                  "::1"s,
                                  "|"s,
                                  ">"s,
                                  "\\"s,
                                  std::string(2000, 'x') + " " + std::string(2000, 'y')}) {
    CAPTURE(text);
    const std::string yaml = written([&](Writer& out) {
      out.begin_map();
      out.string("key");
      out.string(text);
      out.end_map();
    });
    CAPTURE(yaml);
    const auto read = checked("test", [&]() -> Result<std::string> {
      TextSource source(yaml);
      Reader reader(source, {});
      const Value root = reader.whole();
      const Value value(*root.node().first->next);
      CHECK(value.is_scalar());
      CHECK_FALSE(value.is_null());
      return std::string(value.text());
    });
    REQUIRE(read);
    CHECK(*read == text);
  }
}

TEST_CASE("bytes that are not UTF-8 are replaced") {
  CHECK(written([](Writer& out) { out.string("a\xff\xc3"); }) == "a\ufffd\ufffd\n");
}

}  // namespace zt::yaml
