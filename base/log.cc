#include "base/log.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/log_filter.h"
#include "base/log_format.h"
#include "base/log_ring.h"

namespace zt::log {
namespace {

constexpr size_t kBatchLines = 64;  // lines per writev (contract Appendix A)
// After a burst the writer waits this long before it asks to be woken again, so a busy proxy pays for one
// wake-up per period and not per line.
constexpr auto kBatchPeriod = std::chrono::milliseconds(2);
// How long stop() waits for whoever reads. A pipe that nobody reads must not keep the process from ending.
constexpr auto kStopLimit = std::chrono::seconds(2);

// Waits until everything is written, or the descriptor is broken; false if so.
bool write_all(int fd, iovec* parts, size_t count) {
  while (count > 0) {
    const ssize_t written = ::writev(fd, parts, static_cast<int>(count));
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return false;
      pollfd writable{fd, POLLOUT, 0};
      ::poll(&writable, 1, -1);
      continue;
    }
    auto left = static_cast<size_t>(written);
    while (count > 0 && left >= parts->iov_len) {
      left -= parts->iov_len;
      ++parts;
      --count;
    }
    if (count > 0) {
      parts->iov_base = static_cast<char*>(parts->iov_base) + left;
      parts->iov_len -= left;
    }
  }
  return true;
}

void write_line(int fd, std::string& line) {
  iovec part{line.data(), line.size()};
  write_all(fd, &part, 1);
}

// The writer thread and what it shares with those that log.
class Writer {
 public:
  void start(int fd, Format format) {
    const std::lock_guard lock(control_);
    if (thread_.joinable() || abandoned_.load(std::memory_order_relaxed)) return;
    fd_.store(fd, std::memory_order_relaxed);
    format_.store(format, std::memory_order_relaxed);
    stopping_.store(false, std::memory_order_relaxed);
    queued_.store(true, std::memory_order_release);
    // A signal must not be handled here, and a closed pipe must be an error of writev and not the end of the
    // process.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_setname_np(thread_.native_handle(), "log");
  }

  void stop() {
    const std::lock_guard lock(control_);
    if (!thread_.joinable()) return;
    queued_.store(false, std::memory_order_release);
    stopping_.store(true, std::memory_order_seq_cst);
    wake();
    {
      std::unique_lock ended(ended_mutex_);
      if (!ended_changed_.wait_for(ended, kStopLimit, [this] { return ended_; })) {
        // The writer is inside a system call that may never return. It goes with the process; what comes from here on has nowhere
        // to go, since standard error is often the same pipe.
        abandoned_.store(true, std::memory_order_release);
        thread_.detach();
        return;
      }
      ended_ = false;
    }
    thread_.join();
    drain();  // lines of threads that had just decided to queue
  }

  void submit(std::string&& line) {
    if (!queued_.load(std::memory_order_acquire)) {
      if (abandoned_.load(std::memory_order_acquire)) return;
      write_line(STDERR_FILENO, line);
      return;
    }
    if (!ring_.push(line)) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    // Pairs with the fence in run(): either we see that the writer sleeps, or it sees our line.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_relaxed) != 0) wake();
  }

  [[nodiscard]] Format format() const { return format_.load(std::memory_order_relaxed); }
  [[nodiscard]] uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  void wake() {
    asleep_.store(0, std::memory_order_release);
    asleep_.notify_one();
  }

  void run() {
    for (;;) {
      const bool last = stopping_.load(std::memory_order_acquire);
      const bool wrote = drain();
      if (last) {
        const std::lock_guard lock(ended_mutex_);
        ended_ = true;
        ended_changed_.notify_one();
        return;
      }
      if (wrote) {
        std::this_thread::sleep_for(kBatchPeriod);
        continue;
      }
      asleep_.store(1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (drain() || stopping_.load(std::memory_order_acquire)) {
        asleep_.store(0, std::memory_order_relaxed);
        continue;
      }
      asleep_.wait(1, std::memory_order_acquire);
    }
  }

  // Writes all that is queued; false if nothing was.
  bool drain() {
    std::array<std::string, kBatchLines> lines;
    std::array<iovec, kBatchLines> parts;
    bool any = false;
    for (;;) {
      size_t count = 0;
      while (count < kBatchLines && ring_.pop(lines[count])) {
        parts[count] = {lines[count].data(), lines[count].size()};
        ++count;
      }
      if (count == 0) return any;
      any = true;
      if (!write_all(fd_.load(std::memory_order_relaxed), parts.data(), count)) {
        dropped_.fetch_add(count, std::memory_order_relaxed);
        reported_ += count;  // there is nobody to report it to
      }
      if (count < kBatchLines) report_dropped();
    }
  }

  void report_dropped() {
    const uint64_t dropped = dropped_.load(std::memory_order_relaxed);
    if (dropped == reported_) return;
    std::string line;
    const Field count = Field::count("count", static_cast<int64_t>(dropped - reported_));
    format_line(line, format(), LineTime::now(), Level::kWarn, "log", "log lines dropped, the queue was full", {&count, 1});
    reported_ = dropped;
    write_line(fd_.load(std::memory_order_relaxed), line);
  }

  std::mutex control_;  // start and stop
  std::thread thread_;
  std::atomic<int> fd_{STDERR_FILENO};
  std::atomic<Format> format_{Format::kPlain};
  std::atomic<bool> queued_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint32_t> asleep_{0};
  std::atomic<bool> abandoned_{false};  // the writer is stuck; for good
  std::mutex ended_mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;  // guarded by ended_mutex_: run() is about to return
  std::atomic<uint64_t> dropped_{0};
  uint64_t reported_ = 0;
  Ring ring_{kRingLines, kRingBytes};
};

// Never destroyed: threads may log while the process ends.
Writer& writer() {
  static auto* const instance = new Writer;
  return *instance;
}

}  // namespace

// Knows every scope and the filter that sets their levels. Scopes register before main begins, in no
// particular order.
class Registry {
 public:
  static Registry& get() {
    static auto* const instance = new Registry;
    return *instance;
  }

  void add(Scope& scope) {
    const std::lock_guard lock(mutex_);
    scope.next_ = scopes_;
    scopes_ = &scope;
    scope.level_.store(current_.level_for(scope.target_), std::memory_order_relaxed);
  }

  void set(FilterSpec filter) {
    const std::lock_guard lock(mutex_);
    default_ = filter;
    current_ = std::move(filter);
    apply();
  }

  Result<> append(const FilterSpec& later) {
    const std::lock_guard lock(mutex_);
    FilterSpec merged = later.is_one_level() ? default_ : current_;
    merged.merge(later);
    if (merged.size() > FilterSpec::kMaxDirectives) {
      return fail(Fault::kInvalidInput, fmt::format("log filter has more than {} clauses", FilterSpec::kMaxDirectives));
    }
    current_ = std::move(merged);
    apply();
    return {};
  }

  void reset() {
    const std::lock_guard lock(mutex_);
    current_ = default_;
    apply();
  }

  std::string text() {
    const std::lock_guard lock(mutex_);
    return current_.to_string();
  }

 private:
  Registry() : default_(*FilterSpec::parse("info")), current_(default_) {}

  void apply() {
    for (Scope* scope = scopes_; scope != nullptr; scope = scope->next_) {
      scope->level_.store(current_.level_for(scope->target_), std::memory_order_relaxed);
    }
  }

  std::mutex mutex_;
  FilterSpec default_;
  FilterSpec current_;
  Scope* scopes_ = nullptr;
};

Scope::Scope(const char* target) : target_(target) { Registry::get().add(*this); }

void start(int fd, Format format) { writer().start(fd, format); }
void stop() { writer().stop(); }
uint64_t dropped_lines() { return writer().dropped(); }

Result<> set_filter(std::string_view spec) {
  ZT_ASSIGN(auto filter, FilterSpec::parse(spec));
  Registry::get().set(std::move(filter));
  return {};
}

Result<> append_filter(std::string_view spec) {
  ZT_ASSIGN(auto filter, FilterSpec::parse(spec));
  return Registry::get().append(filter);
}

std::string current_filter() { return Registry::get().text(); }
void reset_filter() { Registry::get().reset(); }

void write_fields(const Scope& scope, Level level, std::string_view message, std::span<const Field> fields) {
  if (!scope.enabled(level)) return;
  // Formatted in a buffer of the thread and copied at its size: one allocation a line, none that is larger
  // than the line.
  static thread_local std::string buffer;
  buffer.clear();
  format_line(buffer, writer().format(), LineTime::now(), level, scope.target(), message, fields);
  writer().submit(std::string(buffer));
}

void write(const Scope& scope, Level level, std::string_view message, std::initializer_list<Field> fields) {
  write_fields(scope, level, message, {fields.begin(), fields.size()});
}

}  // namespace zt::log
