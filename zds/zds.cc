#include "zds/zds.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/utf8.h"
#include "mesh/reason.h"

namespace zt::zds {

namespace {

// Protobuf's wire types; 3 and 4 open and close a group, which only unknown fields can be.
enum WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kGroup = 3, kGroupEnd = 4, kFixed32 = 5 };

struct Field {
  uint32_t number = 0;
  WireType type = kVarint;
  uint64_t varint = 0;
  std::string_view bytes;
};

std::unexpected<Error> malformed(std::string_view what) {
  return fail(Reason::kInvalidInput, fmt::format("malformed ZDS message: {}", what));
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

// Walks the fields of one message. Every length is checked against what is left before it is used.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  // Reads the next field; false at the end of the message. Groups are skipped, not returned.
  Result<bool> next(Field& field) {
    for (;;) {
      if (rest_.empty()) return open_groups_ == 0 ? Result<bool>(false) : malformed("unterminated group");
      ZT_TRY(read(field));
      if (field.type == kGroup) {
        if (open_groups_ == groups_.size()) return malformed("groups nested too deeply");
        groups_[open_groups_++] = field.number;
      } else if (field.type == kGroupEnd) {
        if (open_groups_ == 0 || groups_[--open_groups_] != field.number) return malformed("stray end of group");
      } else if (open_groups_ == 0) {
        return true;
      }
    }
  }

 private:
  Result<> read(Field& field) {
    uint64_t key = 0;
    ZT_TRY(read_varint(key));
    if (key >> 32 != 0 || key >> 3 == 0) return malformed("field number out of range");
    field.number = static_cast<uint32_t>(key >> 3);
    field.type = static_cast<WireType>(key & 7);
    switch (field.type) {
      case kVarint: return read_varint(field.varint);
      case kBytes: {
        uint64_t length = 0;
        ZT_TRY(read_varint(length));
        return take(length, field.bytes);
      }
      case kFixed64: return take(8, field.bytes);
      case kFixed32: return take(4, field.bytes);
      case kGroup:
      case kGroupEnd: return {};
    }
    return malformed("unknown wire type");
  }

  Result<> read_varint(uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      if (rest_.empty()) return malformed("truncated number");
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      if (shift == 63 && byte > 1) return malformed("number longer than 64 bits");
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return {};
    }
    return malformed("number longer than 64 bits");
  }

  Result<> take(uint64_t length, std::string_view& bytes) {
    if (length > rest_.size()) return malformed("field runs past the end");
    bytes = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return {};
  }

  std::string_view rest_;
  std::array<uint32_t, 16> groups_{};
  size_t open_groups_ = 0;
};

// Calls `on_field(field) -> Result<>` for each field of the message.
template <class F>
Result<> for_each_field(std::string_view bytes, F&& on_field) {
  Reader reader(bytes);
  Field field;
  for (;;) {
    ZT_ASSIGN(const bool more, reader.next(field));
    if (!more) return {};
    ZT_TRY(on_field(std::as_const(field)));
  }
}

Result<> expect_bytes(const Field& field, std::string_view name) {
  if (field.type == kBytes) return {};
  return malformed(fmt::format("field {} has wire type {}", name, static_cast<int>(field.type)));
}

Result<> read_string(const Field& field, std::string_view name, std::string& out) {
  ZT_TRY(expect_bytes(field, name));
  if (!is_utf8(field.bytes)) return malformed(fmt::format("field {} is not UTF-8", name));
  out = field.bytes;
  return {};
}

Result<> read_info(std::string_view bytes, WorkloadInfo& info) {
  return for_each_field(bytes, [&](const Field& field) -> Result<> {
    switch (field.number) {
      case 1: return read_string(field, "workload_info.name", info.name);
      case 2: return read_string(field, "workload_info.namespace", info.namespace_name);
      case 3: return read_string(field, "workload_info.service_account", info.service_account);
      default: return {};
    }
  });
}

Result<> read_add(std::string_view bytes, AddWorkload& add) {
  return for_each_field(bytes, [&](const Field& field) -> Result<> {
    if (field.number == 1) return read_string(field, "add.uid", add.uid);
    if (field.number != 2) return {};
    ZT_TRY(expect_bytes(field, "add.workload_info"));
    if (!add.info) add.info.emplace();
    return read_info(field.bytes, *add.info);
  });
}

Result<> read_uid(std::string_view bytes, uint32_t number, std::string_view name, std::string& uid) {
  return for_each_field(
      bytes, [&](const Field& field) -> Result<> { return field.number == number ? read_string(field, name, uid) : Result<>{}; });
}

// Protobuf's rule for a oneof: another member replaces it, the same member again is merged into it.
template <class T>
T& member(std::optional<WorkloadRequest>& request) {
  if (!request || !std::holds_alternative<T>(*request)) request.emplace(T{});
  return std::get<T>(*request);
}

Result<> check_size(std::string_view bytes) {
  if (bytes.size() <= kMaxZdsMessage) return {};
  return fail(Reason::kInvalidInput,
              fmt::format("ZDS message of {} bytes exceeds the limit of {}", bytes.size(), kMaxZdsMessage));
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_bytes(std::string& out, uint32_t number, std::string_view bytes) {
  put_varint(out, number << 3 | kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

// proto3 leaves out empty strings.
void put_string(std::string& out, uint32_t number, std::string_view text) {
  if (!text.empty()) put_bytes(out, number, text);
}

// At most `most` bytes of `text`, with '?' for what is not UTF-8: the peer's protobuf would refuse the whole
// message.
std::string clean_text(std::string_view text, size_t most) {
  std::string out;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (out.size() + std::max<size_t>(length, 1) > most) break;
    if (length == 0) {
      out.push_back('?');
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

struct RequestEncoder {
  std::string operator()(const AddWorkload& add) const {
    std::string body;
    put_string(body, 1, add.uid);
    if (add.info) {
      std::string info;
      put_string(info, 1, add.info->name);
      put_string(info, 2, add.info->namespace_name);
      put_string(info, 3, add.info->service_account);
      put_bytes(body, 2, info);
    }
    return wrap(1, body);
  }
  std::string operator()(const DelWorkload& del) const {
    std::string body;
    put_string(body, 2, del.uid);
    return wrap(2, body);
  }
  std::string operator()(const SnapshotSent&) const { return wrap(3, {}); }
  std::string operator()(const KeepWorkload& keep) const {
    std::string body;
    put_string(body, 1, keep.uid);
    return wrap(5, body);
  }
  static std::string wrap(uint32_t number, std::string_view body) {
    std::string out;
    put_bytes(out, number, body);
    return out;
  }
};

}  // namespace

std::string encode(const ZdsHello& hello) {
  std::string out;
  put_varint(out, 1 << 3 | kVarint);
  put_varint(out, hello.version);
  return out;
}

std::string encode(const WorkloadRequest& request) { return std::visit(RequestEncoder{}, request); }

std::string encode(const WorkloadAck& ack) {
  std::string body;
  put_string(body, 1, clean_text(ack.error, kMaxAckText));
  return RequestEncoder::wrap(1, body);
}

Result<ZdsHello> decode_hello(std::string_view bytes) {
  ZT_TRY(check_size(bytes));
  ZdsHello hello{.version = 0};
  ZT_TRY(for_each_field(bytes, [&](const Field& field) -> Result<> {
    if (field.number != 1) return {};
    if (field.type != kVarint) return malformed("field version is not a number");
    hello.version = static_cast<uint32_t>(field.varint);
    return {};
  }));
  if (hello.version != kZdsVersion1) {
    return fail(Reason::kInvalidInput,
                fmt::format("ZDS version {} is not supported, only version {}", hello.version, kZdsVersion1));
  }
  return hello;
}

Result<WorkloadRequest> decode_request(std::string_view bytes) {
  ZT_TRY(check_size(bytes));
  std::optional<WorkloadRequest> request;
  ZT_TRY(for_each_field(bytes, [&](const Field& field) -> Result<> {
    switch (field.number) {
      case 1: ZT_TRY(expect_bytes(field, "add")); return read_add(field.bytes, member<AddWorkload>(request));
      case 2: ZT_TRY(expect_bytes(field, "del")); return read_uid(field.bytes, 2, "del.uid", member<DelWorkload>(request).uid);
      case 3:
        ZT_TRY(expect_bytes(field, "snapshot_sent"));
        member<SnapshotSent>(request);
        return for_each_field(field.bytes, [](const Field&) -> Result<> { return {}; });
      case 5: ZT_TRY(expect_bytes(field, "keep")); return read_uid(field.bytes, 1, "keep.uid", member<KeepWorkload>(request).uid);
      default: return {};
    }
  }));
  if (!request) return malformed("a request without payload");
  return std::move(*request);
}

Result<WorkloadAck> decode_ack(std::string_view bytes) {
  ZT_TRY(check_size(bytes));
  std::optional<WorkloadAck> ack;
  ZT_TRY(for_each_field(bytes, [&](const Field& field) -> Result<> {
    if (field.number != 1) return {};
    ZT_TRY(expect_bytes(field, "ack"));
    if (!ack) ack.emplace();
    return read_uid(field.bytes, 1, "ack.error", ack->error);
  }));
  if (!ack) return malformed("a response without payload");
  return std::move(*ack);
}

std::string_view request_kind(const WorkloadRequest& request) {
  static constexpr std::array<std::string_view, std::variant_size_v<WorkloadRequest>> kKinds{"add", "keep", "del",
                                                                                             "snapshot_sent"};
  return kKinds[request.index()];
}

}  // namespace zt::zds
