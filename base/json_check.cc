// The library's code goes into this file: Debian has it as headers.
#include <fmt/format.h>

#include <boost/json/src.hpp>
#include <boost/json/stream_parser.hpp>

#include "base/json_writer.h"

namespace zt {

Result<> validate_json(std::string_view text) {
  boost::json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  boost::json::stream_parser parser({}, options);
  boost::system::error_code error;
  const size_t read = parser.write_some(text.data(), text.size(), error);
  if (!error && read == text.size()) parser.finish(error);
  if (!error && read == text.size()) return {};
  return fail(Fault::kInvalidInput, fmt::format("not valid JSON at byte {}", read));
}

}  // namespace zt
