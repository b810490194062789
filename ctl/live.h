#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "ctl/dump.h"

// The admin server's /connections, looked at again and again: what is open, what ended meanwhile. Ours only: istio/ztunnel has none.
namespace zt::ctl {

struct OpenLine {
  std::string pod, direction, source, destination, asked, protocol, peer;
  uint64_t id = 0;  // tells those of one tunnel apart, which have one source
  uint64_t sent = 0, received = 0;
};
struct EndLine {
  OpenLine line;
  uint64_t worker = 0, number = 0;
  int64_t at_ms = 0, duration_ms = 0;  // since 1970
  std::string reason, error;           // error: empty for an end that an application chose
};

// One look.
struct Look {
  std::map<std::string, OpenLine> open;  // by what tells connections apart
  std::vector<EndLine> ended;            // the last of each worker, the oldest first
  std::vector<std::string> pods;         // "namespace/name"
};

// kInvalidInput: it is no such answer.
[[nodiscard]] Result<Look> parse_look(std::string_view json);
// Blocks. kIo: the text says what to do.
[[nodiscard]] Result<Look> look(const std::string& admin);

// Those of `after` that `before` did not have, and how many ends must have been pushed out of the proxy's memory unseen.
struct NewEnds {
  std::vector<const EndLine*> ends;
  uint64_t unseen = 0;
};
[[nodiscard]] NewEnds new_ends(const Look& before, const Look& after);

// What was opened and what ended between two looks, as lines for people, ends first. `filter`: by namespace and pod. `seen`, with a colour for
// what failed if `colours`.
[[nodiscard]] std::string tap_text(const Look& before, const Look& after, const Filter& filter, const Names& names, bool colours);

// Rates of each pod between two looks, `seconds` apart.
[[nodiscard]] Listing rates(const Look& before, const Look& after, double seconds, const Filter& filter);

// The last that ended, the latest first. `failed`: only those that did not end by an application's wish.
[[nodiscard]] Listing recent(const Look& look, const Filter& filter, const Names& names, bool failed);

// What to do about the failures in such a list, each once: a line for people, or nothing.
[[nodiscard]] std::string advice(const Listing& recent);

}  // namespace zt::ctl
