#include "base/ticket.h"

#include <mutex>

namespace zt {

struct Ticket::Stub {
  std::mutex mutex;
  EventLoop* loop;  // null: nobody waits any more. Written by the loop's thread, under the mutex
};

Ticket::Ticket(EventLoop& loop) : stub_(std::make_shared<Stub>()) { stub_->loop = &loop; }

Ticket::~Ticket() {
  const std::lock_guard lock(stub_->mutex);
  stub_->loop = nullptr;
}

void Ticket::deliver(const std::shared_ptr<Stub>& stub, std::move_only_function<void()> answer) {
  // The mutex is held over post(): the loop outlives the ticket, and the ticket cannot go meanwhile.
  const std::lock_guard lock(stub->mutex);
  if (stub->loop == nullptr) return;
  stub->loop->post([stub, answer = std::move(answer)]() mutable {
    if (stub->loop != nullptr) answer();
  });
}

}  // namespace zt
