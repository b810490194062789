#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace zt::ctl {

// One line of a scrape.
struct Sample {
  std::string name;
  std::map<std::string, std::string, std::less<>> labels;
  double value = 0;

  [[nodiscard]] std::string_view label(std::string_view which) const;
};

// OpenMetrics text, as the metrics server of a proxy writes it. Comments and lines that are none are passed over.
[[nodiscard]] std::vector<Sample> parse_metrics(std::string_view text);

// Of the server at `address` ("localhost:15020"). Blocks. kIo: the text says what to do.
[[nodiscard]] Result<std::vector<Sample>> fetch_metrics(const std::string& address);

}  // namespace zt::ctl
