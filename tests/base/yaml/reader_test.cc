#include "base/yaml/reader.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace zt::yaml {
namespace {

// One byte at a time: places and texts must not depend on how a source cuts.
class Drip final : public Source {
 public:
  explicit Drip(std::string_view text) : text_(text) {}
  Result<size_t> read(uint64_t offset, std::span<char> into) override {
    return text_.read(offset, into.first(std::min<size_t>(into.size(), 1)));
  }

 private:
  TextSource text_;
};

// Writes a value in a form in which everything that the reader says of it can be seen.
std::string shown(const Value& value) {
  std::string out = value.tag().empty() ? "" : std::string(value.tag()) + " ";
  if (value.is_null()) return out + "null";
  if (value.is_scalar()) return out + "\"" + std::string(value.text()) + "\"";
  std::string inner;
  if (value.is_list()) {
    value.each([&](const Value& item) { inner += (inner.empty() ? "" : ", ") + shown(item); });
    return out + "[" + inner + "]";
  }
  value.each_pair(
      [&](const Value& key, const Value& of) { inner += (inner.empty() ? "" : ", ") + shown(key) + ": " + shown(of); });
  return out + "{" + inner + "}";
}

std::string whole(std::string_view text, const Limits& limits = {}) {
  const auto read = [&](Source& source) {
    const auto value = checked("f", [&] {
      Reader reader(source, limits);
      return shown(reader.whole());
    });
    return value ? *value : value.error().text;
  };
  TextSource at_once(text);
  Drip drip(text);
  const std::string out = read(at_once);
  CHECK(read(drip) == out);
  return out;
}

std::vector<std::string> items(std::string_view text, const Limits& limits = {}) {
  std::vector<std::string> seen;
  TextSource source(text);
  const Reader::Section known[] = {{"a", [&](const Value& item) { seen.push_back(item.path() + " " + shown(item)); }},
                                   {"b", [&](const Value& item) { seen.push_back(item.path() + " " + shown(item)); }}};
  const auto read = checked("f", [&] {
    Reader(source, limits).sections(known, "empty");
    return true;
  });
  if (!read) seen.push_back(read.error().text);
  return seen;
}

}  // namespace

TEST_CASE("a YAML document is read as it says") {
  CHECK(whole("") == "null");
  CHECK(whole("# nothing\n") == "null");
  CHECK(whole("\xef\xbb\xbf"
              "a: 1") == "{\"a\": \"1\"}");
  CHECK(whole("{a: , b: ~, c: null, d: '', e: \"null\", f: nul}") ==
        "{\"a\": null, \"b\": null, \"c\": null, \"d\": \"\", \"e\": \"null\", \"f\": \"nul\"}");
  CHECK(whole("- !Exact x\n- |\n  two\n  lines\n- \"\\u00e4\\n\"") == "[!Exact \"x\", \"two\nlines\n\", \"\xc3\xa4\n\"]");
  CHECK(whole("{\"a\":[1,{\"b\":2}],\"c\":true}") == "{\"a\": [\"1\", {\"b\": \"2\"}], \"c\": \"true\"}");
}

TEST_CASE("an alias is what its anchor stands for when it comes") {
  CHECK(whole("{a: &x [1, &y 2], b: *x, c: *y, d: &x 3, e: *x}") ==
        "{\"a\": [\"1\", \"2\"], \"b\": [\"1\", \"2\"], \"c\": \"2\", \"d\": \"3\", \"e\": \"3\"}");
  CHECK(whole("[&a [*a]]") == "f:1:6: alias to a value that contains it");
  CHECK(whole("[*a]") == "f:1:2: alias to an anchor that is not there: a");
}

TEST_CASE("sections hand on item by item, and keep what anchors name") {
  CHECK(items("b: [1]\na:\n- {x: y}\n- 2\n") == std::vector<std::string>{"b[0] \"1\"", "a[0] {\"x\": \"y\"}", "a[1] \"2\""});
  CHECK(items("a: [1, &x {k: [v]}, 3, [*x, 4]]\nb: &l [*x]") ==
        std::vector<std::string>{"a[0] \"1\"", "a[1] {\"k\": [\"v\"]}", "a[2] \"3\"", "a[3] [{\"k\": [\"v\"]}, \"4\"]",
                                 "b[0] {\"k\": [\"v\"]}"});
  CHECK(items("a: ~\nb:\n") == std::vector<std::string>{});
  CHECK(items("") == std::vector<std::string>{"f:1:1: empty"});
  CHECK(items("~") == std::vector<std::string>{"f:1:1: empty"});
  CHECK(items("x") == std::vector<std::string>{"f:1:1: map expected"});
  CHECK(items("&r {a: [*r]}") == std::vector<std::string>{"f:1:9: alias to a value that contains it"});
  CHECK(items("a: [1]\n[a]: 2").back() == "f:2:1: a key must be plain text");
  CHECK(items("a: {}") == std::vector<std::string>{"f:1:4: a: list expected"});
  CHECK(items("a: [1]\nc: 2").back() == "f:2:1: c: unknown key (known here: a, b)");
}

TEST_CASE("limits on a YAML document hold where it is too much") {
  CHECK(whole("[[[1]]]", {.depth = 3}) == "[[[\"1\"]]]");
  CHECK(whole("[[[[1]]]]", {.depth = 3}) == "f:1:4: nested deeper than 3 levels");
  CHECK(items("a: [[1]]", {.depth = 3}) == std::vector<std::string>{"a[0] [\"1\"]"});
  CHECK(items("a: [[[1]]]", {.depth = 3}) == std::vector<std::string>{"f:1:6: nested deeper than 3 levels"});
  CHECK(whole("[1, 2,\n3]", {.values = 3}) == "f:2:1: more than 3 values (aliases counted as what they stand for)");
  CHECK(whole("[&a [1, 2], *a, *a]", {.values = 8}) == "f:1:17: more than 8 values (aliases counted as what they stand for)");
  CHECK(items("a: [[1, 2], [3, 4], [5, 6]]", {.held = 4}).size() == 3);
  CHECK(items("a: [&x [1], &y [2], &z [3]]", {.held = 4}).back() == "f:1:17: more than 4 values in one item or under anchors");
  CHECK(items("a: [1]", {.bytes = 4}) == std::vector<std::string>{"f:1:1: more than 4 bytes"});
}

TEST_CASE("A long list is read as a short one is, however far the parser is ahead") {
  constexpr size_t kItems = 5000;
  const auto text = [](const std::function<std::string(size_t)>& item) {
    std::string all = "a:\n";
    for (size_t i = 0; i < kItems; ++i) all += "- " + item(i) + "\n";
    return all;
  };
  const auto plain = [](size_t i) { return "i" + std::to_string(i); };
  std::vector<std::string> seen;
  const auto read = [&](const std::string& document, const std::function<void(size_t)>& also = {}, const Limits& limits = {}) {
    seen.clear();
    TextSource source(document);
    const Reader::Section known[] = {{"a", [&](const Value& item) {
                                        seen.push_back(item.path() + " " + shown(item));
                                        if (also) also(seen.size() - 1);
                                      }}};
    const auto done = checked("f", [&] {
      Reader(source, limits).sections(known, "empty");
      return std::string();
    });
    return done ? *done : done.error().text;
  };
  SECTION("all of it, in its order") {
    CHECK(read(text(plain)).empty());
    REQUIRE(seen.size() == kItems);
    for (size_t i = 0; i < kItems; ++i) REQUIRE(seen[i] == "a[" + std::to_string(i) + "] \"i" + std::to_string(i) + "\"");
  }
  SECTION("what is wrong in it after what comes before") {
    CHECK_FALSE(read(text([&](size_t i) { return i == 4000 ? "\"" + plain(i) : plain(i); })).empty());
    CHECK(seen.size() == 4000);
    CHECK(read(text([&](size_t i) { return i == 4000 ? "*b" : plain(i); })) ==
          "f:4002:3: alias to an anchor that is not there: b");
    CHECK(seen.size() == 4000);
  }
  SECTION("and nothing more once an item is refused") {
    CHECK(read(text(plain), [](size_t i) {
            if (i == 3000) throw Refusal{{7, 8}, "no"};
          }) == "f:7:8: no");
    CHECK(seen.size() == 3001);
  }
  SECTION("an anchor of long ago is known") {
    CHECK(read(text([&](size_t i) {
            return i == 10 || i == 1000 ? "&x" + std::to_string(i) + " {y: z}"
                   : i > 4000           ? "*x" + std::to_string(i % 2 ? 10 : 1000)
                                        : plain(i);
          })).empty());
    REQUIRE(seen.size() == kItems);
    CHECK(seen[4501] == "a[4501] {\"y\": \"z\"}");
  }
  SECTION("limits hold") {
    // The key is a value too.
    CHECK(read(text(plain), {}, {.values = 4000}).starts_with("f:4001:3: more than 4000 values"));
    CHECK(seen.size() == 3999);
    CHECK(read(text([](size_t) { return std::string("[1, 2, 3]"); }), {}, {.held = 5}).empty());
    CHECK(read(text([](size_t i) { return std::string(i < 4000 ? "[1, 2, 3]" : "[1, 2, 3, 4]"); }), {}, {.held = 5})
              .starts_with("f:4002:"));
  }
}

TEST_CASE("what a source cannot give ends the reading with its error") {
  class Broken final : public Source {
    Result<size_t> read(uint64_t offset, std::span<char> into) override {
      if (offset > 0) return fail(Fault::kIo, "cannot read f: Input/output error");
      std::memcpy(into.data(), "a: [1,", 6);
      return 6;
    }
  } source;
  const auto read = checked("f", [&] {
    Reader reader(source);
    return shown(reader.whole());
  });
  REQUIRE_FALSE(read);
  CHECK(read.error().reason == Fault::kIo);
  CHECK(read.error().text == "cannot read f: Input/output error");
}

}  // namespace zt::yaml
