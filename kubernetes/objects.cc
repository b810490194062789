#include "kubernetes/objects.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <utility>

#include "base/text.h"
#include "mesh/reason.h"

namespace zt::kubernetes {

namespace {

namespace json = boost::json;

constexpr size_t kMaxMessage = 300;
const json::object kNothing;

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

// The place of what is wrong, "metadata.labels", thrown by those below and caught where the object ends.
struct Wrong {
  std::string text;
};
[[noreturn]] void wrong(std::string_view where, std::string_view wanted) {
  throw Wrong{fmt::format("{} is no {}", where, wanted)};
}

const json::object& object_at(const json::object& parent, std::string_view key) {
  const json::value* value = parent.if_contains(key);
  if (value == nullptr || value->is_null()) return kNothing;
  if (!value->is_object()) wrong(key, "object");
  return value->get_object();
}
std::string text_at(const json::object& parent, std::string_view key) {
  const json::value* value = parent.if_contains(key);
  if (value == nullptr || value->is_null()) return {};
  if (!value->is_string()) wrong(key, "string");
  return std::string(view(value->get_string()));
}
bool flag_at(const json::object& parent, std::string_view key) {
  const json::value* value = parent.if_contains(key);
  if (value == nullptr || value->is_null()) return false;
  if (!value->is_bool()) wrong(key, "boolean");
  return value->get_bool();
}
Labels labels_at(const json::object& parent, std::string_view key) {
  Labels labels;
  for (const auto& [name, value] : object_at(parent, key)) {
    if (!value.is_string()) wrong(fmt::format("{}.{}", key, std::string_view(name.data(), name.size())), "string");
    labels.emplace(std::string_view(name.data(), name.size()), view(value.get_string()));
  }
  return labels;
}
std::vector<std::string> addresses(const json::object& status) {
  std::vector<std::string> ips;
  if (const json::value* list = status.if_contains("podIPs"); list != nullptr && !list->is_null()) {
    if (!list->is_array()) wrong("podIPs", "list");
    for (const auto& entry : list->get_array()) {
      if (!entry.is_object()) wrong("podIPs", "list of objects");
      if (auto ip = text_at(entry.get_object(), "ip"); !ip.empty()) ips.push_back(std::move(ip));
    }
  }
  if (auto ip = text_at(status, "podIP"); ips.empty() && !ip.empty()) ips.push_back(std::move(ip));
  return ips;
}

// Names and uids end up in paths, in logs and in the proxies' certificates.
void check_word(std::string_view what, std::string_view word, size_t most) {
  const auto allowed = [](char c) { return is_alnum(c) || c == '-' || c == '.' || c == '_' || c == ':'; };
  if (word.empty()) throw Wrong{fmt::format("{} is missing", what)};
  if (word.size() > most || !std::ranges::all_of(word, allowed)) {
    throw Wrong{fmt::format("{} '{}' is not one that Kubernetes gives", what, word.substr(0, 64))};
  }
}

Object to_object(const json::object& from) {
  Object object;
  const json::object& metadata = object_at(from, "metadata");
  object.name = text_at(metadata, "name");
  object.ns = text_at(metadata, "namespace");
  object.uid = text_at(metadata, "uid");
  object.version = text_at(metadata, "resourceVersion");
  object.labels = labels_at(metadata, "labels");
  object.annotations = labels_at(metadata, "annotations");
  object.deleting = !text_at(metadata, "deletionTimestamp").empty();
  const json::object& spec = object_at(from, "spec");
  object.node = text_at(spec, "nodeName");
  object.host_network = flag_at(spec, "hostNetwork");
  object.service_account = text_at(spec, "serviceAccountName");
  const json::object& status = object_at(from, "status");
  object.phase = text_at(status, "phase");
  object.ips = addresses(status);
  check_word("metadata.name", object.name, 253);
  check_word("metadata.uid", object.uid, kMaxUid);
  if (!object.ns.empty()) check_word("metadata.namespace", object.ns, 253);
  return object;
}

// What a bad object says of itself, as far as that can be read.
std::string key_of(const json::object& from) {
  const json::value* metadata = from.if_contains("metadata");
  if (metadata == nullptr || !metadata->is_object()) return "?";
  const auto word = [&](std::string_view key) -> std::string {
    const json::value* value = metadata->get_object().if_contains(key);
    return value != nullptr && value->is_string() ? std::string(view(value->get_string()).substr(0, 253)) : std::string();
  };
  const std::string ns = word("namespace"), name = word("name");
  return ns.empty() ? name : ns + "/" + name;
}

Result<json::value> parse(std::string_view text, json::storage_ptr storage) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::system::error_code error;
  json::value value = json::parse({text.data(), text.size()}, error, std::move(storage), options);
  if (error) return fail(Reason::kInvalidInput, fmt::format("not valid JSON: {}", error.message()));
  if (!value.is_object()) return fail(Reason::kInvalidInput, "not a JSON object");
  return value;
}

Status to_status(const json::object& from) {
  Status status;
  const json::value* code = from.if_contains("code");
  if (code != nullptr && code->is_int64() && code->get_int64() > 0 && code->get_int64() < 1000) {
    status.code = static_cast<unsigned>(code->get_int64());
  }
  status.reason = text_at(from, "reason").substr(0, kMaxMessage);
  status.message = text_at(from, "message").substr(0, kMaxMessage);
  return status;
}

}  // namespace

Result<ListPage> parse_list(std::string_view text) {
  json::monotonic_resource memory(std::max<size_t>(text.size(), 4096));
  ZT_ASSIGN(const json::value root, parse(text, &memory));
  const json::object& list = root.get_object();
  ListPage page;
  try {
    const json::object& metadata = object_at(list, "metadata");
    page.version = text_at(metadata, "resourceVersion");
    page.next = text_at(metadata, "continue");
    if (page.version.empty()) throw Wrong{"metadata.resourceVersion is missing"};
    const json::value* items = list.if_contains("items");
    if (items == nullptr || items->is_null()) return page;
    if (!items->is_array()) wrong("items", "list");
    for (const auto& item : items->get_array()) {
      if (!item.is_object()) wrong("items", "list of objects");
      try {
        page.items.push_back(to_object(item.get_object()));
      } catch (const Wrong& error) {
        page.bad.push_back({key_of(item.get_object()), error.text});
      }
    }
  } catch (const Wrong& error) {
    return fail(Reason::kInvalidInput, fmt::format("not a list: {}", error.text));
  }
  return page;
}

Result<WatchEvent> parse_event(std::string_view text) {
  json::monotonic_resource memory(std::max<size_t>(text.size(), 4096));
  ZT_ASSIGN(const json::value root, parse(text, &memory));
  WatchEvent event;
  try {
    const std::string type = text_at(root.get_object(), "type");
    const json::object& object = object_at(root.get_object(), "object");
    if (type == "ERROR") {
      event.type = WatchEvent::Type::kError;
      event.status = to_status(object);
      return event;
    }
    if (type == "BOOKMARK") {
      event.type = WatchEvent::Type::kBookmark;
      event.object.version = text_at(object_at(object, "metadata"), "resourceVersion");
      return event;
    }
    if (type == "DELETED") {
      event.type = WatchEvent::Type::kDeleted;
    } else if (type != "ADDED" && type != "MODIFIED") {
      return fail(Reason::kInvalidInput, fmt::format("unknown type '{}' of a watch event", type.substr(0, 32)));
    }
    try {
      event.object = to_object(object);
    } catch (const Wrong& error) {
      event.bad = BadObject{key_of(object), error.text};
    }
  } catch (const Wrong& error) {
    return fail(Reason::kInvalidInput, fmt::format("not a watch event: {}", error.text));
  }
  return event;
}

Result<Object> parse_object(std::string_view text) {
  json::monotonic_resource memory(std::max<size_t>(text.size(), 4096));
  ZT_ASSIGN(const json::value root, parse(text, &memory));
  try {
    return to_object(root.get_object());
  } catch (const Wrong& error) {
    return fail(Reason::kInvalidInput, error.text);
  }
}

Status parse_status(std::string_view text) {
  json::monotonic_resource memory;
  try {
    if (const auto root = parse(text, &memory)) return to_status(root->get_object());
  } catch (const Wrong&) {  // said below
  }
  Status status;
  for (const char c : text.substr(0, kMaxMessage)) status.message += c < ' ' ? ' ' : c;
  return status;
}

std::string annotation_patch(std::string_view uid, std::string_view key, const std::optional<std::string>& value) {
  const auto text = [](std::string_view of) { return json::string(of.data(), of.size()); };
  json::object annotations;
  annotations[key] = value ? json::value(text(*value)) : json::value(nullptr);
  json::object metadata;
  metadata["uid"] = text(uid);
  metadata["annotations"] = std::move(annotations);
  json::object patch;
  patch["metadata"] = std::move(metadata);
  return json::serialize(patch);
}

std::string query_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (is_alnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

}  // namespace zt::kubernetes
