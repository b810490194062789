#include "workload_api/xds/delta_response.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/wire_format_lite.h>

#include <limits>
#include <utility>

#include "mesh/reason.h"
#include "workload_api/model/sanity.h"
#include "workload_api/xds/convert.h"
#include "workload_api/xds/log_scope.h"
#include "workload_api/xds/proto/authorization.pb.h"
#include "workload_api/xds/proto/discovery.pb.h"
#include "workload_api/xds/proto/workload.pb.h"

namespace zt::workload_api {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using Message = envoy::service::discovery::v3::DeltaDiscoveryResponse;

constexpr uint32_t tag(int field) { return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED); }

// Protobuf would write to stderr what it does not like. Our log and the NACK say it, by name and within
// limits.
[[maybe_unused]] google::protobuf::LogHandler* const kDefaultLogHandler = google::protobuf::SetLogHandler(nullptr);

// The pieces of a message as one stream.
class PieceStream final : public google::protobuf::io::ZeroCopyInputStream {
 public:
  explicit PieceStream(std::span<const std::string_view> pieces) : pieces_(pieces) {}

  bool Next(const void** data, int* size) override {
    while (piece_ < pieces_.size() && offset_ == pieces_[piece_].size()) advance();
    if (piece_ == pieces_.size()) return false;
    const std::string_view rest = pieces_[piece_].substr(offset_, static_cast<size_t>(std::numeric_limits<int>::max()));
    *data = rest.data();
    *size = static_cast<int>(rest.size());
    take(rest.size());
    return true;
  }
  void BackUp(int count) override {
    offset_ -= static_cast<size_t>(count);
    taken_ -= count;
  }
  bool Skip(int count) override {
    auto left = static_cast<size_t>(count);
    while (left > 0) {
      while (piece_ < pieces_.size() && offset_ == pieces_[piece_].size()) advance();
      if (piece_ == pieces_.size()) return false;
      const size_t step = std::min(left, pieces_[piece_].size() - offset_);
      take(step);
      left -= step;
    }
    return true;
  }
  int64_t ByteCount() const override { return taken_; }

 private:
  void advance() {
    ++piece_;
    offset_ = 0;
  }
  void take(size_t count) {
    offset_ += count;
    taken_ += static_cast<int64_t>(count);
  }

  std::span<const std::string_view> pieces_;
  size_t piece_ = 0;
  size_t offset_ = 0;
  int64_t taken_ = 0;
};

// Walks over the message and keeps no more than one resource of it in decoded form: a tree of a large push
// would take several times the memory of what comes out. The type stands behind the resources, hence two
// passes.
class Decoder {
 public:
  explicit Decoder(std::span<const std::string_view> pieces) : pieces_(pieces) {
    for (const std::string_view piece : pieces) out_.bytes += piece.size();
  }

  Result<DeltaResponse> run() {
    if (out_.bytes > kMaxResponseBytes) return broken(fmt::format("is larger than {} bytes", kMaxResponseBytes));
    if (!walk(&Decoder::envelope)) return broken("is not a DeltaDiscoveryResponse");
    out_.type = resource_type(out_.type_url);
    if (out_.type != ResourceType::kOther && !walk(&Decoder::resource)) return broken("is damaged");
    warn_of_dead_identity();
    if (out_.type == ResourceType::kAddress) out_.batch.removed_addresses = std::move(removed_);
    if (out_.type == ResourceType::kAuthorization) out_.batch.removed_policies = std::move(removed_);
    out_.rejected.insert(out_.rejected.end(), std::make_move_iterator(undecodable_.begin()),
                         std::make_move_iterator(undecodable_.end()));
    return std::move(out_);
  }

 private:
  [[nodiscard]] std::unexpected<Error> broken(std::string_view why) const {
    const std::string beyond = fmt::format("has more than {} entries", kMaxResponseEntries);
    return fail(Reason::kInvalidInput, fmt::format("the control plane's message {}", too_many() ? beyond : why));
  }
  [[nodiscard]] bool too_many() const { return out_.resources + removed_.size() + out_.aliases.size() > kMaxResponseEntries; }

  // Taken all the same, as the peer takes them; one line for a message, however many they are.
  void warn_of_dead_identity() const {
    if (dead_identity_.workloads == 0) return;
    ZT_LOG(xds_log, kWarn, "a workload's identity can be nobody's: no tunnel to it or from it can be made",
           Field::string("workload", dead_identity_.uid), Field::string("field", dead_identity_.field),
           Field::string("value", dead_identity_.value), Field::string("why", dead_identity_.why),
           Field::count("more", static_cast<int64_t>(dead_identity_.workloads - 1)));
  }

  template <class Visit>
  bool walk(Visit visit) {
    PieceStream stream(pieces_);
    CodedInputStream input(&stream);
    input.SetTotalBytesLimit(std::numeric_limits<int>::max());
    while (const uint32_t field = input.ReadTag())
      if (!(this->*visit)(field, input)) return false;
    return input.ConsumedEntireMessage();
  }

  bool envelope(uint32_t field, CodedInputStream& input) {
    switch (field) {
      case tag(Message::kTypeUrlFieldNumber): return WireFormatLite::ReadString(&input, &out_.type_url);
      case tag(Message::kNonceFieldNumber): return WireFormatLite::ReadString(&input, &out_.nonce);
      case tag(Message::kRemovedResourcesFieldNumber):
        return WireFormatLite::ReadString(&input, &removed_.emplace_back()) && !too_many();
      case tag(Message::kResourcesFieldNumber):
        ++out_.resources;
        if (too_many()) return false;
        [[fallthrough]];
      default: return WireFormatLite::SkipField(&input, field);
    }
  }

  bool resource(uint32_t field, CodedInputStream& input) {
    if (field != tag(Message::kResourcesFieldNumber)) return WireFormatLite::SkipField(&input, field);
    if (index_ == 0) start();
    if (!WireFormatLite::ReadBytes(&input, &bytes_)) return false;
    ++index_;
    if (bytes_.size() > kMaxResourceBytes) {
      out_.rejected.push_back({place(), fmt::format("is larger than {} bytes", kMaxResourceBytes)});
      return true;
    }
    if (!entry_.ParseFromString(bytes_)) {
      undecodable_.push_back({place(), kUndecodable.data()});
      return true;
    }
    out_.aliases.insert(out_.aliases.end(), entry_.aliases().begin(), entry_.aliases().end());
    if (too_many()) return false;
    if (!entry_.has_resource()) {
      out_.rejected.push_back({entry_.name(), "missing resource"});
      return true;
    }
    const bool address = out_.type == ResourceType::kAddress;
    google::protobuf::Message& content = address ? static_cast<google::protobuf::Message&>(address_) : policy_;
    if (!content.ParseFromString(entry_.resource().value())) {
      undecodable_.push_back({entry_.name(), kUndecodable.data()});
      return true;
    }
    if (const auto converted = address ? convert_address() : convert_policy(); !converted) {
      out_.rejected.push_back({entry_.name(), converted.error().text});
      return true;
    }
    out_.accepted.push_back({name_of_entry(), Str(entry_.version())});
    return true;
  }

  // For one whose name cannot be read.
  [[nodiscard]] std::string place() const { return fmt::format("(resource {} of the message)", index_); }

  void start() {
    out_.accepted.reserve(out_.resources);
    if (out_.type == ResourceType::kAddress) out_.batch.workloads.reserve(out_.resources);
  }

  Result<> convert_address() {
    switch (address_.type_case()) {
      case istio::workload::Address::kWorkload: {
        ZT_ASSIGN(auto workload, converter_.workload(address_.workload()));
        note_dead_identity(*workload, dead_identity_);
        last_uid_ = workload->uid;
        out_.batch.workloads.push_back(std::move(workload));
        return {};
      }
      case istio::workload::Address::kService: {
        ZT_ASSIGN(auto service, converter_.service(address_.service()));
        out_.batch.services.push_back(std::move(service));
        return {};
      }
      case istio::workload::Address::TYPE_NOT_SET: break;
    }
    return fail(Reason::kInvalidInput, "unknown address type");
  }

  Result<> convert_policy() {
    ZT_ASSIGN(auto policy, converter_.authorization(policy_, entry_.name()));
    last_uid_ = policy->key;
    out_.batch.policies.push_back(std::move(policy));
    return {};
  }

  // Mostly the name is the workload's uid or the policy's key, and then it need not be kept twice.
  Str name_of_entry() {
    const Str uid = std::exchange(last_uid_, {});
    return uid == entry_.name() ? uid : Str(entry_.name());
  }

  static constexpr std::string_view kUndecodable = "decode: failed to decode Protobuf message";

  std::span<const std::string_view> pieces_;
  DeltaResponse out_;
  std::vector<std::string> removed_;
  std::vector<Rejected> undecodable_;
  Converter converter_;
  DeadIdentity dead_identity_;
  size_t index_ = 0;
  Str last_uid_;

  // Reused from one resource to the next.
  std::string bytes_;
  envoy::service::discovery::v3::Resource entry_;
  istio::workload::Address address_;
  istio::security::Authorization policy_;
};

}  // namespace

Result<DeltaResponse> decode_response(std::span<const std::string_view> pieces) { return Decoder(pieces).run(); }

Result<DeltaResponse> decode_response(std::string_view bytes) { return decode_response(std::span(&bytes, 1)); }

}  // namespace zt::workload_api
