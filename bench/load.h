#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

// The load generator and its server: epoll, one thread, nothing of the proxy in it. Errors end the program
// with a sentence; a measurement that went wrong must not look like a result.
namespace load {

// The first bytes of every connection tell the server what to do with it, so that one port serves every
// measurement.
enum class Mode : uint8_t {
  kSink = 's',  // read to the end, then answer with the number of bytes (8 bytes, host order) and close
  kSend = 'g',  // send `amount` bytes (0: until the client goes); then close, or hold the connection open if
                // `keep`
  kEcho = 'e',  // for each `request` bytes answer `amount` bytes
  kHold = 'h',  // never read again: a receiver that has stalled
};
struct Hello {
  Mode mode = Mode::kSink;
  uint8_t keep = 0;
  uint16_t reserved = 0;
  uint32_t request = 0;
  uint64_t amount = 0;
};
static_assert(sizeof(Hello) == 16);

inline constexpr size_t kChunk = 256 * 1024;  // one read or write of a bulk stream

[[noreturn]] void die(const char* what);  // "what: strerror(errno)"
[[noreturn]] void die_text(const std::string& text);
int64_t now_ns();

// --key value and --flag, in any order; unknown keys are refused by finish().
class Options {
 public:
  Options(int argc, char** argv, int first);
  std::string text(const std::string& key, const std::string& fallback = {});
  int64_t number(const std::string& key, int64_t fallback);
  bool flag(const std::string& key);
  void finish() const;

 private:
  std::map<std::string, std::string> values_;
  std::map<std::string, bool> used_;
};

// ADDRESS:PORT, [ADDRESS]:PORT, or ADDRESS+N:PORT for N addresses in a row, used in turn.
class Targets {
 public:
  explicit Targets(const std::string& text);
  const sockaddr_storage& next();
  [[nodiscard]] socklen_t length() const;
  [[nodiscard]] size_t count() const { return addresses_.size(); }

 private:
  std::vector<sockaddr_storage> addresses_;
  size_t next_ = 0;
};

int connect_start(Targets& targets);  // non-blocking; finished when writable
void connect_finish(int fd);          // dies when the connect failed
void send_all(int fd, const void* data,
              size_t size);  // small data on a fresh connection: must fit the socket's buffer

class Epoll {
 public:
  Epoll();
  ~Epoll() { ::close(fd_); }
  Epoll(const Epoll&) = delete;
  Epoll& operator=(const Epoll&) = delete;
  void add(int fd, uint32_t events, void* data);
  void change(int fd, uint32_t events, void* data);
  // Ready events until `deadline_ns` (now_ns clock; -1: for ever), into a buffer that the next call reuses.
  const std::vector<epoll_event>& wait(int64_t deadline_ns);

 private:
  int fd_;
  std::vector<epoll_event> events_;
};

// {"count":…,"p50_us":…,"p90_us":…,"p99_us":…,"p999_us":…,"max_us":…} of nanosecond samples; sorts them.
std::string percentiles(std::vector<int64_t>& samples);

int serve(Options& options);
int bulk(Options& options);
int requests(Options& options);
int connections(Options& options);
int idle(Options& options);
int stall(Options& options);

}  // namespace load
