#pragma once
#include <nftables/libnftables.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace zt::redirection {

// libnftables in the calling thread's network namespace.
class Nft {
 public:
  static Result<Nft> open();

  // One transaction: all of it or nothing.
  Result<> run(const std::string& commands);
  Result<std::string> list_tables();
  // The table's text (family inet), or nothing if there is no such table. Without counters: two listings are equal exactly if the
  // rules are.
  Result<std::optional<std::string>> list_table(std::string_view table);

 private:
  struct ContextDeleter {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
  };
  explicit Nft(nft_ctx* context) : context_(context) {}
  // The first line; the others repeat the command and point into it.
  std::string error();

  std::unique_ptr<nft_ctx, ContextDeleter> context_;
};

// The lines of a table's text, without indentation and closing brackets.
[[nodiscard]] std::vector<std::string_view> nft_lines(std::string_view text);

}  // namespace zt::redirection
