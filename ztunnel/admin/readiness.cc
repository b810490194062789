#include "ztunnel/admin/readiness.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"

namespace zt::ztunnel {
namespace {

log::Scope scope("readiness");

}  // namespace

Readiness::Hold::Hold(Hold&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), task_(std::move(other.task_)) {}

Readiness::Hold& Readiness::Hold::operator=(Hold&& other) noexcept {
  if (this != &other) {
    done();
    owner_ = std::exchange(other.owner_, nullptr);
    task_ = std::move(other.task_);
  }
  return *this;
}

void Readiness::Hold::done() {
  if (owner_ != nullptr) std::exchange(owner_, nullptr)->release(task_);
}

Readiness::Hold Readiness::hold(std::string_view task) {
  const std::lock_guard lock(mutex_);
  ++pending_[std::string(task)];
  return Hold(*this, std::string(task));
}

void Readiness::release(const std::string& task) {
  size_t left = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = pending_.find(task);
    if (found == pending_.end() || --found->second > 0) return;
    pending_.erase(found);
    left = pending_.size();
  }
  const std::chrono::duration<double, std::milli> since = Clock::now() - start_;
  const std::string done = fmt::format("Task '{}' complete ({:.3f}ms)", task, since.count());
  ZT_LOG(scope, kInfo, left == 0 ? done + ", marking server ready" : fmt::format("{}, still awaiting {} tasks", done, left));
}

bool Readiness::ready() const {
  const std::lock_guard lock(mutex_);
  return pending_.empty();
}

std::string Readiness::text() const {
  const std::lock_guard lock(mutex_);
  if (pending_.empty()) return "ready\n";
  std::string names;
  for (const auto& [task, count] : pending_) names.append(names.empty() ? "" : ", ").append(task);
  return fmt::format("not ready, pending: {}\n", names);
}

}  // namespace zt::ztunnel
