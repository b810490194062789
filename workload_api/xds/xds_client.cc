#include "workload_api/xds/xds_client.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/background_thread.h"
#include "base/backoff.h"
#include "workload_api/xds/ads_stream.h"
#include "workload_api/xds/delta_session.h"
#include "workload_api/xds/log_scope.h"
#include "workload_api/xds/reconnect.h"

namespace zt::workload_api {

class XdsClient::Impl {
 public:
  Impl(EventLoop& loop, Store& store, rpc::Endpoint endpoint, NodeDescription node, DeltaSession::Options session,
       const std::function<double()>& random)
      : loop_(loop),
        endpoint_(std::move(endpoint)),
        node_(std::move(node)),
        session_(store, session),
        reconnect_(random),
        retry_(loop),
        lookup_timer_(loop) {}

  ~Impl() {
    stream_.reset();
    session_.lookups().refuse_all();
  }

  void start(std::function<void()> on_ready) {
    on_ready_ = std::move(on_ready);
    open();
  }
  [[nodiscard]] bool ready() const { return session_.ready(); }

  void look_up(const std::string& key, const std::string& asker, LookupDone done) {
    if (const auto request = session_.look_up(key, asker, Clock::now(), std::move(done))) stream_->send(*request);
    if (session_.lookups().stream_is_full() && stream_) {
      ZT_LOG(xds_log, kInfo, "the stream has as many subscriptions as it may have; starting a fresh one",
             Field::count("keys", static_cast<int64_t>(session_.lookups().keys())));
      stream_->cancel();
    }
    arm_lookup_timer();
  }

  [[nodiscard]] XdsStats stats() const {
    XdsStats out = stats_;
    session_.add_to(out);
    return out;
  }

 private:
  void open() {
    ++stats_.streams;
    answered_.reset();
    stream_.emplace(loop_, background_, endpoint_, node_, session_.start_stream(),
                    AdsStream::Handler{
                        .response = [this](Result<DeltaResponse> response) { handle(std::move(response)); },
                        .ended = [this](const AdsStream::Ended& ended) { reopen(ended); },
                    });
  }

  void handle(Result<DeltaResponse> response) {
    if (!answered_) answered_ = Clock::now();
    if (!std::exchange(stats_.connected, true))
      ZT_LOG(xds_log, kInfo, "Stream established", Field::string("address", endpoint_.address()));
    if (!response) {
      ++stats_.undecodable_messages;
      ZT_LOG(xds_log, kError, "ending the stream", Field::string("error", response.error().text));
      unusable_ = response.error().text;
      stream_->cancel();
      return;
    }
    const auto type = response->type_url;
    const auto resources = response->resources;
    const auto before = Clock::now();
    const DeltaRequest answer = session_.handle(std::move(*response));
    const auto took = Clock::now() - before;
    stats_.longest_apply = std::max<std::chrono::nanoseconds>(stats_.longest_apply, took);
    ZT_LOG(xds_log, kDebug, "applied a response", Field::string("type", type),
           Field::count("resources", static_cast<int64_t>(resources)),
           Field::count("microseconds", std::chrono::duration_cast<std::chrono::microseconds>(took).count()));
    stream_->send(answer);
    stream_->read_next();
    if (on_ready_ && session_.ready()) std::exchange(on_ready_, nullptr)();
  }

  void reopen(const AdsStream::Ended& ended) {
    session_.end_stream();
    stats_.connected = false;
    const std::optional<std::string> unusable = std::exchange(unusable_, std::nullopt);
    const StreamEnd end = unusable ? StreamEnd::kError : ended.end;
    ++stats_.terminations[static_cast<size_t>(end)];
    const auto delay = reconnect_.pause(Clock::now(), {.answered = answered_, .unreachable = ended.unreachable});
    report(end, unusable ? *unusable : ended.text, delay);
    retry_.start_after(delay, [this, end] {
      stream_.reset();
      // It may have been a message above the limit, and then most of it has come.
      if (end == StreamEnd::kError) background_.post([] { ::malloc_trim(0); });
      open();
    });
  }

  void report(StreamEnd end, const std::string& text, std::chrono::milliseconds delay) {
    switch (end) {
      case StreamEnd::kConnectionError:
        return log::write(xds_log, log::Level::kWarn,
                          fmt::format("XDS client connection error: gRPC connection error connecting to {}: {}, retrying "
                                      "in {}ms",
                                      endpoint_.address(), text, delay.count()));
      case StreamEnd::kError:
        return log::write(xds_log, log::Level::kWarn, fmt::format("XDS client error: {}, retrying in {}ms", text, delay.count()));
      case StreamEnd::kReconnect:
      case StreamEnd::kComplete:
        return log::write(xds_log, log::Level::kInfo,
                          fmt::format("XDS client stream ended: {}, retrying in {}ms", text, delay.count()));
    }
  }

  void arm_lookup_timer() {
    const auto deadline = session_.lookups().next_deadline();
    if (!deadline) return;
    if (lookup_timer_.armed()) return;  // lookups end in the order in which they began
    lookup_timer_.start(*deadline, [this] {
      session_.lookups().expire(Clock::now());
      arm_lookup_timer();
    });
  }

  EventLoop& loop_;
  const rpc::Endpoint endpoint_;
  const NodeDescription node_;
  DeltaSession session_;
  Reconnect reconnect_;
  std::function<void()> on_ready_;
  XdsStats stats_;
  std::optional<Clock::time_point> answered_;  // the present stream was, first
  std::optional<std::string> unusable_;        // why we ended the present stream ourselves
  BackgroundThread background_{"zt-xds"};
  std::optional<AdsStream> stream_;  // goes before the thread
  Timer retry_, lookup_timer_;
};

Result<std::unique_ptr<XdsClient>> XdsClient::create(EventLoop& loop, Store& store, XdsOptions options) {
  options.endpoint.max_message_bytes = kMaxResponseBytes;
  ZT_ASSIGN(rpc::Endpoint endpoint, rpc::Endpoint::make(std::move(options.endpoint)));
  ZT_ASSIGN(NodeDescription node, NodeDescription::make(options.node_id, options.node_metadata, options.node_json));
  return std::unique_ptr<XdsClient>(new XdsClient(std::make_unique<Impl>(
      loop, store, std::move(endpoint), std::move(node),
      DeltaSession::Options{.on_demand = options.on_demand, .lookups_per_asker = options.lookups_per_asker},
      options.random ? std::move(options.random) : Backoff::any_random())));
}

XdsClient::XdsClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
XdsClient::~XdsClient() = default;
void XdsClient::start(std::function<void()> on_ready) { impl_->start(std::move(on_ready)); }
bool XdsClient::ready() const { return impl_->ready(); }
void XdsClient::look_up(const std::string& key, const std::string& asker, LookupDone done) {
  impl_->look_up(key, asker, std::move(done));
}
XdsStats XdsClient::stats() const { return impl_->stats(); }

}  // namespace zt::workload_api
