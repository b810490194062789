#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "ctl/command_line.h"

namespace zt::ctl {

using Files = std::vector<std::pair<std::string, std::string>>;  // name, content

// What a person who was not there needs: the dump, metrics, what is open and what ended, log levels, the answers of `check`, the machine; and of
// --log the end. What could not be had is a file that says why. Private keys and tokens are in none of these at their source; members whose names
// sound like a secret are hidden all the same. Blocks for some seconds.
[[nodiscard]] Files bugreport_files(const Options& options);

// The same in an archive, tar.gz, for its owner only. Returns what to tell the person.
[[nodiscard]] Result<std::string> bugreport(const Options& options);

// ---- Its parts

// "<hidden>" in place of the values of members that are called token, secret, password and the like, however deep.
[[nodiscard]] json::value without_secrets(const json::value& value);
// `time`: seconds since 1970, of all files. kInvalidInput: a name of more than 100 bytes.
[[nodiscard]] Result<std::string> tar_gz(const Files& files, int64_t time);

}  // namespace zt::ctl
