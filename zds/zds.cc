#include "zds/zds.h"

#include <fmt/core.h>

#include <array>
#include <utility>

#include "base/utf8.h"
#include "mesh/reason.h"
#include "zds/proto/zds.pb.h"

namespace zt::zds {

namespace {

namespace pb = istio::workload::zds;

// What cannot be read is said by whoever asked for it; protobuf would write of it to stderr too.
[[maybe_unused]] google::protobuf::LogHandler* const kDefaultLogHandler = google::protobuf::SetLogHandler(nullptr);

Result<> check_size(std::string_view bytes) {
  if (bytes.size() <= kMaxZdsMessage) return {};
  return fail(Reason::kInvalidInput,
              fmt::format("ZDS message of {} bytes exceeds the limit of {}", bytes.size(), kMaxZdsMessage));
}

struct Encoder {
  pb::WorkloadRequest& out;
  void operator()(const AddWorkload& add) const {
    out.mutable_add()->set_uid(add.uid);
    if (!add.info) return;
    pb::WorkloadInfo& info = *out.mutable_add()->mutable_workload_info();
    info.set_name(add.info->name);
    info.set_namespace_(add.info->ns);
    info.set_service_account(add.info->service_account);
  }
  void operator()(const DelWorkload& del) const { out.mutable_del()->set_uid(del.uid); }
  void operator()(const SnapshotSent&) const { out.mutable_snapshot_sent(); }
  void operator()(const KeepWorkload& keep) const { out.mutable_keep()->set_uid(keep.uid); }
};

template <class Message>
Result<Message> parse(std::string_view bytes) {
  ZT_TRY(check_size(bytes));
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return fail(Reason::kInvalidInput, "malformed ZDS message");
  }
  return message;
}

AddWorkload add_of(const pb::AddWorkload& message) {
  AddWorkload add{.uid = message.uid(), .info = std::nullopt};
  if (message.has_workload_info()) {
    const pb::WorkloadInfo& info = message.workload_info();
    add.info = PodName{info.name(), info.namespace_(), info.service_account()};
  }
  return add;
}

}  // namespace

std::string encode(const ZdsHello& hello) {
  pb::ZdsHello message;
  message.set_version(static_cast<pb::Version>(hello.version));
  return message.SerializeAsString();
}

std::string encode(const WorkloadRequest& request) {
  pb::WorkloadRequest message;
  std::visit(Encoder{message}, request);
  return message.SerializeAsString();
}

std::string encode(const WorkloadAck& ack) {
  pb::WorkloadResponse message;
  // The peer's protobuf would refuse all of a message with other bytes.
  message.mutable_ack()->set_error(valid_utf8(ack.error, "?", kMaxAckText));
  return message.SerializeAsString();
}

Result<ZdsHello> decode_hello(std::string_view bytes) {
  ZT_ASSIGN(const auto message, parse<pb::ZdsHello>(bytes));
  const auto version = static_cast<uint32_t>(message.version());
  if (version != kZdsVersion1) {
    return fail(Reason::kInvalidInput, fmt::format("ZDS version {} is not supported, only version {}", version, kZdsVersion1));
  }
  return ZdsHello{version};
}

Result<WorkloadRequest> decode_request(std::string_view bytes) {
  ZT_ASSIGN(const auto message, parse<pb::WorkloadRequest>(bytes));
  switch (message.payload_case()) {
    case pb::WorkloadRequest::kAdd: return add_of(message.add());
    case pb::WorkloadRequest::kDel: return DelWorkload{message.del().uid()};
    case pb::WorkloadRequest::kSnapshotSent: return SnapshotSent{};
    case pb::WorkloadRequest::kKeep: return KeepWorkload{message.keep().uid()};
    case pb::WorkloadRequest::PAYLOAD_NOT_SET: break;
  }
  return fail(Reason::kInvalidInput, "ZDS request without payload");
}

Result<WorkloadAck> decode_ack(std::string_view bytes) {
  ZT_ASSIGN(const auto message, parse<pb::WorkloadResponse>(bytes));
  if (!message.has_ack()) return fail(Reason::kInvalidInput, "ZDS response without payload");
  return WorkloadAck{message.ack().error()};
}

std::string_view request_kind(const WorkloadRequest& request) {
  static constexpr std::array<std::string_view, std::variant_size_v<WorkloadRequest>> kKinds{"add", "keep", "del",
                                                                                             "snapshot_sent"};
  return kKinds[request.index()];
}

}  // namespace zt::zds
