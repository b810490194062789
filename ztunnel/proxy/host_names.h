#pragma once
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/task.h"
#include "base/ticket.h"
#include "ztunnel/dns/host_resolver.h"

namespace zt::ztunnel {

// Asks the resolver (HostResolver::resolve(), control thread). Thread-safe; `done` comes on the control thread. Null: there is none.
using HostRequest = std::function<void(std::string host, dns::NamedBy by, dns::HostDone done)>;

// What host names stand for, as one worker knows it: as long as an answer is fresh, no other thread is asked. Worker's thread.
class HostNames {
 public:
  HostNames(EventLoop& loop, HostRequest request) : loop_(loop), request_(std::move(request)), ticket_(loop) {}

  // Never null. Without an answer within `limit` there are no addresses.
  Task<dns::HostAnswerPtr> find(std::string host, Clock::duration limit, dns::NamedBy by = dns::NamedBy::kMesh);
  static constexpr size_t kMostNames = 1024;  // that are remembered here, of the mesh's and of programs' each

 private:
  struct Pending {
    Event done;
    dns::HostAnswerPtr answer;
  };
  struct Names {
    std::unordered_map<std::string, dns::HostAnswerPtr> known;
    std::unordered_map<std::string, std::shared_ptr<Pending>> asked;
    void keep(const std::string& host, dns::HostAnswerPtr answer);
  };
  EventLoop& loop_;
  const HostRequest request_;
  Names mesh_, programs_;
  Ticket ticket_;
};

}  // namespace zt::ztunnel
