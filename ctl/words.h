#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

// What is made of the tree of commands and options, so that none of it is written twice.
namespace zt::ctl {

// `shell`: "bash", "zsh" or "fish".
[[nodiscard]] std::string completion(const CLI::App& app, std::string_view shell);
// ztunnelctl(1), in man's own language.
[[nodiscard]] std::string manual_page(const CLI::App& app);

}  // namespace zt::ctl
