#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace zt {

// Why something failed. The program lists all values and what they mean (mesh/reason.h); base/ knows none but these.
enum class Reason : uint8_t;
struct Fault {
  static constexpr Reason kInternal{0};
  static constexpr Reason kIo{1};
  static constexpr Reason kInvalidInput{2};
  static constexpr Reason kNotFound{3};
  static constexpr Reason kResourceLimit{4};
};

// What went wrong: the reason decides behaviour, the text is for people (operators grep for it, contract §10.3) and says what,
// where and, for configuration, what to do. Never holds secrets.
struct [[nodiscard]] Error {
  Reason reason = Fault::kInternal;
  std::string text;
};

template <class T = void>
using Result = std::expected<T, Error>;

[[nodiscard]] inline std::unexpected<Error> fail(Reason reason, std::string text) {
  return std::unexpected(Error{reason, std::move(text)});
}

// "what: strerror(errno)"; reads errno.
[[nodiscard]] std::unexpected<Error> fail_errno(Reason reason, std::string_view what);
[[nodiscard]] std::string errno_text(int error);

// ZT_TRY(expr): returns the error of a Result<…> expression. ZT_ASSIGN(var, expr): declares var with its value, or returns the error.
#define ZT_CONCAT_(a, b) a##b
#define ZT_CONCAT(a, b) ZT_CONCAT_(a, b)
#define ZT_TRY(expr)                                                                         \
  do {                                                                                       \
    if (auto zt_try_ = (expr); !zt_try_) return std::unexpected(std::move(zt_try_).error()); \
  } while (0)
#define ZT_ASSIGN_(tmp, var, expr)                          \
  auto tmp = (expr);                                        \
  if (!tmp) return std::unexpected(std::move(tmp).error()); \
  var = std::move(*tmp)
#define ZT_ASSIGN(var, expr) ZT_ASSIGN_(ZT_CONCAT(zt_result_, __LINE__), var, expr)

}  // namespace zt
