#include "workload_api/xds/ads_stream.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>
#include <malloc.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <utility>

#include "mesh/reason.h"

namespace zt::workload_api {
namespace {

constexpr const char* kMethod = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

// How the ends of connections read that a server closes in good order, or that break: as Go, tonic and gRPC
// C++ put it.
constexpr std::array<std::string_view, 6> kConnectionClosed{"transport is closing", "received prior goaway",    "GOAWAY received",
                                                            "Socket closed",        "Connection reset by peer", "Broken pipe"};

// gRPC's words when what it receives outgrows the quota of the channel, which a message within the limit does
// not (Endpoint::open_channel).
constexpr std::string_view kQuotaUsedUp = "Buffers full";

// A message of this size leaves memory behind in gRPC's threads that malloc would keep for good.
constexpr size_t kTrimAbove = 16u << 20;

std::string text_of(const grpc::Status& status) {
  const bool too_large = status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && status.error_message() == kQuotaUsedUp;
  return fmt::format(
      "status: {}, message: \"{}\"", rpc::status_name(status.error_code()),
      too_large ? fmt::format("Received message larger than max ({})", kMaxResponseBytes) : status.error_message());
}

std::vector<std::string_view> pieces_of(const std::vector<grpc::Slice>& slices) {
  std::vector<std::string_view> pieces;
  pieces.reserve(slices.size());
  for (const grpc::Slice& slice : slices) pieces.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return pieces;
}

}  // namespace

StreamEnd classify_end(int code, const std::string& message, bool answered) {
  if (code == grpc::StatusCode::OK) return StreamEnd::kComplete;
  if (!answered) return StreamEnd::kConnectionError;
  switch (code) {
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED: return StreamEnd::kReconnect;
    case grpc::StatusCode::UNAVAILABLE:
      for (const std::string_view text : kConnectionClosed)
        if (message.find(text) != std::string::npos) return StreamEnd::kReconnect;
      return StreamEnd::kError;
    default: return StreamEnd::kError;
  }
}

// Shared between the stream, the background thread's jobs and gRPC, which holds it from start() to OnDone().
// A hold on the call keeps gRPC from ending it while no read is outstanding; it is dropped once, when reading
// is over.
class AdsStream::Call final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                              public std::enable_shared_from_this<AdsStream::Call> {
 public:
  Call(EventLoop& loop, BackgroundThread& background, Handler handler)
      : loop_(loop), background_(background), handler_(std::move(handler)) {}

  // ---- control thread

  void open(const rpc::Endpoint& endpoint, NodeDescription node, std::vector<DeltaRequest> first) {
    background_.post([self = shared_from_this(), &endpoint, node = std::move(node), first = std::move(first)] {
      self->start(endpoint, node, first);
    });
  }

  void send(const DeltaRequest& request) {
    const std::lock_guard lock(mutex_);
    if (!over_) enqueue(encode_request(request, {}));
  }

  void read_next() {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    reading_ = true;
    buffer_.Clear();
    StartRead(&buffer_);
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (!started_) return;  // start() will see it
    context_.TryCancel();
    if (!reading_) finish();
  }

  // No event after this, and none of our objects is touched by gRPC any more.
  void abandon() {
    alive_ = false;
    cancel();
    std::unique_lock lock(mutex_);
    gone_.wait(lock, [this] { return done_; });
  }

  // ---- background thread

  void start(const rpc::Endpoint& endpoint, const NodeDescription& node, const std::vector<DeltaRequest>& first) {
    const auto roots = endpoint.read_roots();
    if (!roots) return fail_to_start(roots.error().text);
    const auto headers = endpoint.call_headers();
    if (!headers) return fail_to_start(headers.error().text);
    for (const auto& [name, value] : *headers) context_.AddMetadata(name, value);
    channel_ = endpoint.open_channel(*roots);

    std::vector<std::string> encoded;
    for (const DeltaRequest& request : first) encoded.push_back(encode_request(request, node));

    const std::lock_guard lock(mutex_);
    if (cancelled_) return end({StreamEnd::kComplete, false, "cancelled"});
    grpc::GenericStub(channel_).PrepareBidiStreamingCall(&context_, kMethod, {}, this);
    started_ = true;
    held_by_grpc_ = shared_from_this();
    AddHold();
    outgoing_.insert(outgoing_.begin(), std::make_move_iterator(encoded.begin()),
                     std::make_move_iterator(encoded.end()));  // before what was sent meanwhile
    write_front();
    reading_ = true;
    StartRead(&buffer_);
    StartCall();
  }

  void decode(grpc::ByteBuffer buffer) {
    std::vector<grpc::Slice> slices;
    const grpc::Status dumped = buffer.Dump(&slices);
    Result<DeltaResponse> response = dumped.ok() ? decode_response(pieces_of(slices))
                                                 : fail(Reason::kInvalidInput, "cannot decompress: " + dumped.error_message());
    slices.clear();
    const size_t bytes = buffer.Length();
    buffer.Clear();
    if (bytes >= kTrimAbove) background_.post([] { ::malloc_trim(0); });  // when this job has let go of its copy
    post([response = std::move(response)](Call& self) mutable { self.handler_.response(std::move(response)); });
  }

  // ---- gRPC's threads

  void OnReadDone(bool ok) override {
    grpc::ByteBuffer message;
    {
      const std::lock_guard lock(mutex_);
      reading_ = false;
      if (!ok || cancelled_) return finish();
      answered_ = true;
      message.Swap(&buffer_);
    }
    // A copy of a ByteBuffer is one more reference to its slices; it has no move.
    background_.post([self = shared_from_this(), message] { self->decode(message); });
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    outgoing_.pop_front();
    writing_ = false;
    if (!ok) outgoing_.clear();  // the stream is ending; the read tells
    write_front();
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Call> self = std::move(held_by_grpc_);  // nobody else looks at it any more
    const std::lock_guard lock(mutex_);
    const bool unreachable = !answered_ && status.error_code() == grpc::StatusCode::UNAVAILABLE;
    end({classify_end(status.error_code(), status.error_message(), answered_), unreachable, text_of(status)});
  }

 private:
  // Runs `event` on the control thread unless the stream is gone by then.
  template <class Event>
  void post(Event event) {
    loop_.post([self = shared_from_this(), event = std::move(event)]() mutable {
      if (self->alive_) event(*self);
    });
  }

  void fail_to_start(const std::string& text) {
    const std::lock_guard lock(mutex_);
    end({StreamEnd::kConnectionError, true, text});
  }

  // The rest: with mutex_ held.
  void end(Ended ended) {
    post([ended = std::move(ended)](Call& self) mutable { self.handler_.ended(std::move(ended)); });
    over_ = done_ = true;
    gone_.notify_all();  // last: whoever waits in abandon() may destroy the loop
  }
  void finish() {
    if (std::exchange(over_, true)) return;
    outgoing_.resize(writing_ ? 1 : 0);
    RemoveHold();
  }
  void enqueue(std::string bytes) {
    outgoing_.push_back(std::move(bytes));
    if (started_) write_front();
  }
  void write_front() {
    if (writing_ || outgoing_.empty()) return;
    writing_ = true;
    const grpc::Slice slice(outgoing_.front());
    out_ = grpc::ByteBuffer(&slice, 1);
    StartWrite(&out_);
  }

  EventLoop& loop_;
  BackgroundThread& background_;
  const Handler handler_;
  bool alive_ = true;  // control thread

  // Background thread, before the call starts.
  std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext context_;

  std::mutex mutex_;
  std::condition_variable gone_;
  std::deque<std::string> outgoing_;  // the front one is being written
  grpc::ByteBuffer out_;
  grpc::ByteBuffer buffer_;  // what is being read
  std::shared_ptr<Call> held_by_grpc_;
  bool started_ = false;
  bool cancelled_ = false;
  bool reading_ = false;
  bool writing_ = false;
  bool answered_ = false;
  bool over_ = false;  // nothing more may be started on the call
  bool done_ = false;  // gRPC has let go
};

AdsStream::AdsStream(EventLoop& loop, BackgroundThread& background, const rpc::Endpoint& endpoint, NodeDescription node,
                     std::vector<DeltaRequest> first, Handler handler)
    : call_(std::make_shared<Call>(loop, background, std::move(handler))) {
  call_->open(endpoint, std::move(node), std::move(first));
}

AdsStream::~AdsStream() { call_->abandon(); }

void AdsStream::send(const DeltaRequest& request) { call_->send(request); }
void AdsStream::read_next() { call_->read_next(); }
void AdsStream::cancel() { call_->cancel(); }

}  // namespace zt::workload_api
