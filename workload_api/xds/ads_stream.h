#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/background_thread.h"
#include "base/event_loop.h"
#include "base/grpc/endpoint.h"
#include "base/result.h"
#include "workload_api/xds/delta_request.h"
#include "workload_api/xds/delta_response.h"
#include "workload_api/xds/xds_stats.h"

namespace zt::workload_api {

// One attempt at a stream of delta ADS: connect, call, messages both ways, end. Made, used and destroyed on
// the control thread; files are read and messages decoded on the background thread, and gRPC works on its own
// ones. At most one response is under way: the next is read when the session is done with the one before, so
// a control plane that sends faster than we apply is slowed down by flow control.
class AdsStream {
 public:
  struct Ended {
    StreamEnd end = StreamEnd::kError;
    bool unreachable = false;  // nobody was there to refuse us
    std::string text;          // for people: "status: UNAVAILABLE, message: …"
  };
  // Called on the control thread, never inside a call of this object, and not after its destruction.
  struct Handler {
    std::function<void(Result<DeltaResponse>)> response;
    std::function<void(Ended)> ended;  // once, the last event
  };

  AdsStream(EventLoop& loop, BackgroundThread& background, const rpc::Endpoint& endpoint, NodeDescription node,
            std::vector<DeltaRequest> first, Handler handler);
  ~AdsStream();  // cancels, and waits until gRPC has let go of the call
  AdsStream(const AdsStream&) = delete;
  AdsStream& operator=(const AdsStream&) = delete;

  void send(const DeltaRequest& request);
  void read_next();  // the next response; call once after each
  void cancel();     // `ended` will follow

 private:
  class Call;
  std::shared_ptr<Call> call_;
};

// What a gRPC status means for reconnecting (contract §6.6). `answered`: the stream had a response.
[[nodiscard]] StreamEnd classify_end(int code, const std::string& message, bool answered);

}  // namespace zt::workload_api
