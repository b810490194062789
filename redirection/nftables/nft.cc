#include "redirection/nftables/nft.h"

#include <fmt/core.h>

#include <algorithm>

#include "mesh/reason.h"

namespace zt::redirection {

Result<Nft> Nft::open() {
  Nft nft(nft_ctx_new(NFT_CTX_DEFAULT));
  if (!nft.context_ || nft_ctx_buffer_output(nft.context_.get()) != 0 || nft_ctx_buffer_error(nft.context_.get()) != 0) {
    return fail(Reason::kIo, "cannot set up libnftables");
  }
  nft_ctx_output_set_flags(nft.context_.get(), NFT_CTX_OUTPUT_STATELESS);
  return nft;
}

Result<> Nft::run(const std::string& commands) {
  if (nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0) return {};
  return fail(Reason::kIo, fmt::format("nftables: {}", error()));
}

Result<std::string> Nft::list_tables() {
  if (nft_run_cmd_from_buffer(context_.get(), "list tables") == 0) return std::string(nft_ctx_get_output_buffer(context_.get()));
  return fail(Reason::kIo, fmt::format("nftables: cannot list tables: {}", error()));
}

Result<std::optional<std::string>> Nft::list_table(std::string_view table) {
  if (nft_run_cmd_from_buffer(context_.get(), fmt::format("list table inet {}", table).c_str()) == 0) {
    return std::string(nft_ctx_get_output_buffer(context_.get()));
  }
  const std::string why = error();
  if (why.find("No such file or directory") != std::string::npos) return std::nullopt;
  return fail(Reason::kIo, fmt::format("nftables: cannot list table inet {}: {}", table, why));
}

std::string Nft::error() {
  const std::string_view text = nft_ctx_get_error_buffer(context_.get());
  return std::string(text.substr(0, text.find('\n')));
}

std::vector<std::string_view> nft_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const auto end = text.find('\n');
    auto line = text.substr(0, end);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.empty() && line != "}") lines.push_back(line);
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace zt::redirection
