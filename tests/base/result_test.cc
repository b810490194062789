#include "base/result.h"
#include "mesh/reason.h"

#include <cerrno>

#include <catch2/catch.hpp>
#include <memory>

using namespace zt;

namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return fail(Reason::kInvalidInput, "odd number");
  return n / 2;
}

Result<int> quarter(int n) {
  ZT_ASSIGN(const int first, half(n));
  ZT_ASSIGN(const int second, half(first));
  return second;
}

Result<> check_even(int n) {
  ZT_TRY(half(n));
  return {};
}

Result<std::unique_ptr<int>> owned(int n) {
  ZT_ASSIGN(auto value, half(n));
  return std::make_unique<int>(value);
}

}  // namespace

TEST_CASE("a value passes through ZT_ASSIGN, also twice in one function") {
  CHECK(quarter(8) == 2);
  CHECK(**owned(8) == 4);
}

TEST_CASE("the first error comes out with its reason and text") {
  const auto result = quarter(6);
  REQUIRE_FALSE(result);
  CHECK(result.error().reason == Reason::kInvalidInput);
  CHECK(result.error().text == "odd number");
  CHECK_FALSE(check_even(3));
  CHECK(check_even(4));
}

TEST_CASE("errno becomes what, colon, text") {
  errno = ECONNREFUSED;
  const Result<> result = fail_errno(Reason::kConnectFailed, "connect to 10.0.0.1:80");
  CHECK(result.error().text == "connect to 10.0.0.1:80: Connection refused");
  CHECK(result.error().reason == Reason::kConnectFailed);
  CHECK(errno_text(EACCES) == "Permission denied");
}
