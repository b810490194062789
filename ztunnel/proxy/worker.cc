#include "ztunnel/proxy/worker.h"

#include <pthread.h>
#include <sys/random.h>

#include <string>

namespace zt::ztunnel {

namespace {
// Else every node, after every start, would begin with the same endpoints.
uint64_t random_seed() {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != sizeof seed) seed = static_cast<uint64_t>(Clock::now().time_since_epoch().count());
  return seed;
}
}  // namespace

Worker::Worker(size_t index, const WorkerSettings& settings, Metrics& metrics, CertificateRequest certificates,
               LookupRequest lookups, HostRequest hosts)
    : index_(index),
      settings_(settings),
      metrics_(metrics),
      io_(loop_, *settings.memory),
      state_(loop_),
      tls_(loop_, settings, metrics, std::move(certificates)),
      lookups_(std::move(lookups)),
      host_names_(loop_, std::move(hosts)),
      name_search_(settings.name_search),
      admission_(loop_, settings.handshakes, metrics.limit_reached),
      handshake_turns_(loop_),
      round_robin_(random_seed()) {}

Worker::~Worker() { stop(); }

void Worker::start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), ("ztunnel-" + std::to_string(index_)).c_str());
    loop_.run();
  });
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  loop_.stop();
  thread_.join();
}

void Worker::publish(workload_api::SnapshotPtr snapshot) {
  loop_.post([this, snapshot = std::move(snapshot)]() mutable { state_.take(std::move(snapshot)); });
}

}  // namespace zt::ztunnel
