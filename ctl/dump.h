#pragma once
#include <boost/json.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "ctl/listing.h"

// A config_dump, of a proxy that runs or saved in a file, ours or istio/ztunnel's, as lists. Any thread.
namespace zt::ctl {

// Where it is from.
struct Source {
  std::string admin = "localhost:15000";  // the admin server of a proxy
  std::string file;                       // or a file; empty: the proxy
};

struct Dump {
  std::string origin;  // for people
  std::string text;
  json::object root;

  // A member that is a list, or an object; an empty one if there is none.
  [[nodiscard]] const json::array& list(std::string_view name) const;
  [[nodiscard]] const json::object& object(std::string_view name) const;
  [[nodiscard]] std::string node() const;  // NODE_NAME; empty if not said
};

// Blocks. kIo, kNotFound: nothing there; kInvalidInput: no config_dump. The text says what to do.
[[nodiscard]] Result<Dump> read_dump(const Source& source);
[[nodiscard]] Result<Dump> parse_dump(std::string text, std::string origin);

// What of it is shown; empty: all. `pod` is a name, or namespace/name.
struct Filter {
  std::string ns, node, pod;
  // Of what has no namespace, node or pod, an empty text.
  [[nodiscard]] bool takes(std::string_view its_ns, std::string_view its_node, std::string_view its_pod) const;
};

// Texts of members, empty if there is none or it is no text.
[[nodiscard]] std::string_view text_in(const json::object& object, std::string_view name);

[[nodiscard]] Listing pods(const Dump& dump, const Filter& filter);
[[nodiscard]] Listing workloads(const Dump& dump, const Filter& filter);
[[nodiscard]] Listing services(const Dump& dump, const Filter& filter);
[[nodiscard]] Listing policies(const Dump& dump, const Filter& filter);
// `now`: seconds since 1970. `chain`: intermediates and roots too.
[[nodiscard]] Listing certificates(const Dump& dump, const Filter& filter, int64_t now, bool chain);

// Workloads of the dump by their addresses, as "namespace/name"; services by theirs, as host names.
class Names {
 public:
  explicit Names(const Dump& dump);
  // Of an address without port; empty if it is nobody's.
  [[nodiscard]] std::string_view of(std::string_view address) const;

 private:
  std::map<std::string, std::string, std::less<>> names_;
};

// "2026-11-24T02:52:05Z" as seconds since 1970.
[[nodiscard]] std::optional<int64_t> parse_time(std::string_view text);

}  // namespace zt::ctl
