#include "ctl/metrics.h"

#include <fmt/format.h>

#include <cstdlib>
#include <optional>

#include "mesh/reason.h"
#include "ztunnel/explain/admin_client.h"

namespace zt::ctl {

namespace {

// Reads {a="b",c="d"} from `at` on, which is behind the brace; nothing if it is none.
std::optional<size_t> read_labels(std::string_view line, size_t at, Sample& sample) {
  while (at < line.size() && line[at] != '}') {
    const size_t equals = line.find("=\"", at);
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view name = line.substr(at, equals - at);
    std::string value;
    for (at = equals + 2; at < line.size() && line[at] != '"'; ++at) {
      if (line[at] == '\\' && at + 1 < line.size()) {
        ++at;
        value += line[at] == 'n' ? '\n' : line[at];
      } else {
        value += line[at];
      }
    }
    if (at >= line.size()) return std::nullopt;
    sample.labels.emplace(name, std::move(value));
    if (++at < line.size() && line[at] == ',') ++at;
  }
  return at < line.size() ? std::optional(at + 1) : std::nullopt;
}

std::optional<Sample> read_line(std::string_view line) {
  if (line.empty() || line.front() == '#') return std::nullopt;
  size_t at = line.find_first_of("{ ");
  if (at == std::string_view::npos) return std::nullopt;
  Sample sample;
  sample.name = line.substr(0, at);
  if (line[at] == '{') {
    const auto after = read_labels(line, at + 1, sample);
    if (!after) return std::nullopt;
    at = *after;
  }
  const std::string value(line.substr(at));
  char* end = nullptr;
  sample.value = std::strtod(value.c_str(), &end);
  return end == value.c_str() ? std::nullopt : std::optional(std::move(sample));
}

}  // namespace

std::string_view Sample::label(std::string_view which) const {
  const auto found = labels.find(which);
  return found == labels.end() ? std::string_view() : std::string_view(found->second);
}

std::vector<Sample> parse_metrics(std::string_view text) {
  std::vector<Sample> samples;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (auto sample = read_line(text.substr(0, end))) samples.push_back(std::move(*sample));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return samples;
}

Result<std::vector<Sample>> fetch_metrics(const std::string& address) {
  ZT_ASSIGN(const ztunnel::AdminAnswer answer, ztunnel::ask_admin(address, "GET", "/metrics"));
  if (answer.status != 200)
    return fail(Reason::kIo,
                fmt::format("no metrics from {}: HTTP status {}; --stats is to be the proxy's metrics port, 15020 by "
                            "default",
                            address, answer.status));
  return parse_metrics(answer.body);
}

}  // namespace zt::ctl
