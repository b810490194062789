#pragma once
#include <string>
#include <string_view>

namespace zt::ztunnel {

// How much a header such as Accept or Accept-Encoding ("gzip;q=0.5, br") likes `value`, in thousandths; 0: not allowed. "*" is for what
// is not named. Media types match without their parameters.
[[nodiscard]] int header_quality(std::string_view header, std::string_view value);
// Named in the header itself, wildcards aside.
[[nodiscard]] bool header_names(std::string_view header, std::string_view value);

// The value of a query's parameter, percent-decoded; `found` says whether it is there ("?reset" is, with an
// empty value).
struct QueryValue {
  bool found = false;
  std::string value;
};
[[nodiscard]] QueryValue query_value(std::string_view query, std::string_view name);

}  // namespace zt::ztunnel
