#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "workload_api/xds/proto/discovery.pb.h"

namespace zt::test {

// A gRPC status as plain data.
struct FakeStatus {
  int code = 0;  // 0: OK
  std::string message;
};

// The ADS half of the fake istiod. Knows resources by type and name; answers as the real one does (golden
// xds/):
// - wildcard: everything whose version the client did not report, and removals of reported names that do not
//   exist; if there is neither, an empty response;
// - on demand: at start what is marked as the client's own; a key by its resource with aliases, or a removal;
//   nothing for a key that is subscribed already; an unsubscription by the removal of all other names;
// - it pushes on without waiting for ACKs, and a NACK changes nothing.
class FakeAds {
 public:
  struct Resource {
    std::string version;
    std::string bytes;  // of the message inside the Any
    std::vector<std::string> aliases = {};
    bool own_node = false;
  };
  using Request = envoy::service::discovery::v3::DeltaDiscoveryRequest;
  struct Received {
    int stream = 0;  // counts from 1
    Request request;
  };

  // Changes what there is; one response per type goes out to each stream that wants to know.
  struct Change {
    std::string type_url;
    std::map<std::string, Resource> put;
    std::set<std::string> remove;
  };
  void change(const Change& change);
  // Workloads of this node count as the client's own from here on.
  void serve_node(const std::string& node);
  void load(const std::string& response_bytes);  // puts what a (recorded) response holds, without pushing

  // ---- faults
  // To all streams, whatever it is: one message of these bytes, so many times over.
  void send_raw(const std::string& bytes, size_t times = 1);
  void end_streams(const FakeStatus& status);             // all present ones
  void refuse_streams(std::optional<FakeStatus> status);  // all to come, until it is empty again
  void answer(bool on);                                   // off: streams are accepted and nothing is sent

  // ---- what came
  [[nodiscard]] std::vector<Received> received() const;
  [[nodiscard]] int streams() const;  // so far
  [[nodiscard]] size_t open_streams() const;
  // Waits until `done` holds for what has been received so far; false if it does not within the limit.
  bool wait(const std::function<bool(const std::vector<Received>&)>& done,
            std::chrono::milliseconds limit = std::chrono::seconds(20)) const;

  // ---- the server's side
  class Stream {
   public:
    virtual ~Stream() = default;
    void send(std::string bytes) { send_repeated(std::move(bytes), 1); }
    virtual void send_repeated(std::string bytes, size_t times) = 0;
    virtual void end(const FakeStatus& status) = 0;
  };
  // A status: the stream is to be refused.
  std::optional<FakeStatus> open(Stream* stream);
  void request(Stream* stream, const std::string& bytes);
  void close(Stream* stream);

 private:
  struct Subscription {  // of one stream to one type
    bool wildcard = false;
    std::set<std::string> names;
  };
  struct StreamState {
    int number = 0;
    std::map<std::string, Subscription> types;
  };
  using Response = envoy::service::discovery::v3::DeltaDiscoveryResponse;

  void first(Subscription& subscription, Stream* stream, const Request& request);
  void later(Subscription& subscription, Stream* stream, const Request& request);
  Response response(const std::string& type_url);

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::map<std::string, std::map<std::string, Resource>> resources_;  // by type, by name
  std::map<Stream*, StreamState> streams_;
  std::vector<Received> received_;
  std::optional<FakeStatus> refusal_;
  int stream_count_ = 0;
  int nonce_ = 0;
  bool answering_ = true;
};

}  // namespace zt::test
