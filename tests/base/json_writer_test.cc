#include "base/json_writer.h"

#include <catch2/catch.hpp>

using namespace zt;

TEST_CASE("objects and arrays are written as the peer writes them: two spaces, empty ones closed at once") {
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("empty");
  json.begin_array();
  json.end_array();
  json.key("none");
  json.begin_object();
  json.end_object();
  json.key("list");
  json.begin_array();
  json.number(-1);
  json.string("a\"b\n\x01\xff");
  json.null();
  json.end_array();
  json.member("flag", true);
  json.end_object();
  CHECK(out ==
        "{\n  \"empty\": [],\n  \"none\": {},\n  \"list\": [\n    -1,\n    \"a\\\"b\\n\\u0001\ufffd\",\n    "
        "null\n  ],\n"
        "  \"flag\": true\n}");
  CHECK(validate_json(out));
}

TEST_CASE("valid JSON is recognised") {
  const auto text =
      GENERATE("0", "-1.5e+3", "\"\\u00e9\\n\"", "[]", "[1,{\"a\":null}]", " {\"a\" : [ true , false ] } ", "\"\u4e2d\"");
  INFO(text);
  CHECK(validate_json(text));
}

TEST_CASE("what is not JSON is refused") {
  const auto text = GENERATE("", " ", "01", "-", "1.", "1e", "tru", "[1,]", "{\"a\"}", "{a:1}", "{\"a\":1,}", "\"", "\"\n\"",
                             "\"\\x\"", "\"\\u12\"", "1 2", "[1", "\"\xff\"", "nul", "\"\\");
  INFO(text);
  CHECK_FALSE(validate_json(text));
}

TEST_CASE("nesting is limited") {
  CHECK(validate_json(std::string(kMaxJsonDepth, '[') + std::string(kMaxJsonDepth, ']')));
  CHECK_FALSE(validate_json(std::string(100'000, '[')));
}
