#pragma once
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// The API's JSON as plain values: what the node agent reads of pods and namespaces, and nothing else of them.
namespace zt::kubernetes {

using Labels = std::map<std::string, std::string, std::less<>>;

// A pod or a namespace. What an object does not say is empty.
struct Object {
  std::string name = {};
  std::string ns = {};  // of pods
  std::string uid = {};
  std::string version = {};  // resourceVersion
  Labels labels = {}, annotations = {};
  bool deleting = false;  // told to end; it may go on for its grace period
  // The rest is of pods.
  std::string node = {};
  std::string service_account = {};
  std::string phase = {};
  bool host_network = false;
  std::vector<std::string> ips = {};  // status.podIPs, or else status.podIP

  [[nodiscard]] std::string key() const { return ns.empty() ? name : ns + "/" + name; }
  friend bool operator==(const Object&, const Object&) = default;
};

// An object that cannot be used: it costs itself and no other.
struct BadObject {
  std::string key;   // as far as it says
  std::string text;  // what is wrong with it
};

struct ListPage {
  std::string version;  // of the whole list: where a watch goes on
  std::string next;     // token of the following page; empty: this was the last
  std::vector<Object> items;
  std::vector<BadObject> bad;
};

// What the API says went wrong.
struct Status {
  unsigned code = 0;
  std::string reason;  // "Expired", "Unauthorized", …
  std::string message;
};

struct WatchEvent {
  enum class Type : uint8_t { kPut, kDeleted, kBookmark, kError };
  Type type = Type::kPut;
  Object object = {};                 // of a bookmark: its version alone
  std::optional<BadObject> bad = {};  // of kPut and kDeleted: cannot be used
  Status status = {};                 // of kError
};

inline constexpr size_t kMaxDepth = 64;
// Of a uid: what is longer is none (ZDS has room for 1024 bytes in all).
inline constexpr size_t kMaxUid = 128;

// kInvalidInput, saying what is wrong: no JSON, or not of the shape that a list and a watch event have.
[[nodiscard]] Result<ListPage> parse_list(std::string_view json);
[[nodiscard]] Result<WatchEvent> parse_event(std::string_view json);
// One object, as asked for by its name.
[[nodiscard]] Result<Object> parse_object(std::string_view json);
// Of an answer that is no success. Never fails: a text that is no Status is its message, shortened.
[[nodiscard]] Status parse_status(std::string_view json);

// A merge patch that sets one annotation of the object with this uid, or takes it away. With another uid the API refuses it.
[[nodiscard]] std::string annotation_patch(std::string_view uid, std::string_view key, const std::optional<std::string>& value);

// Percent-encoded, for a query.
[[nodiscard]] std::string query_escaped(std::string_view text);

}  // namespace zt::kubernetes
