#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "handover/channel.h"
#include "handover/hello.h"
#include "handover/unit.h"

// The order of messages of a hand-over, one unit after the other, and who may go on with a unit when. The rules (docs/handover.md, "Who owns a
// unit") hold whoever dies when: at no time may two processes seal with one key.
namespace zt::handover {

// How long the one who comes may take to say that it is ready. A unit takes a few milliseconds.
inline constexpr std::chrono::milliseconds kReadyLimit{2'000};
inline constexpr std::chrono::milliseconds kHelloLimit{2'000};

// What the one who leaves has. A unit that was given is frozen until one of the three is said of it.
class UnitSource {
 public:
  struct Frozen {
    SecretBytes bytes;
    std::vector<int> descriptors;  // stay its own
  };
  // The next that can be moved now, frozen; nothing: none is left, or none can be moved now (Leaving::go_on() asks again).
  virtual std::optional<Frozen> next() noexcept = 0;
  // It is the other's: forget it without a word.
  virtual void gone() noexcept = 0;
  // It is still here, and `why`: go on with it.
  virtual void stays(const Error& why) noexcept = 0;

 protected:
  ~UnitSource() = default;
};

// The one who leaves, on one connection. Owned by its worker; one thread.
class Leaving final : private Channel::User {
 public:
  // `hello`: ours. `greeted`: the other's hello came and there is a format, before the first unit is asked for. `over`: nothing more can be given, and why; the last
  // thing that is said, after every frozen unit has been spoken for. May destroy this.
  Leaving(EventLoop& loop, UniqueFd socket, Hello hello, UnitSource& source, std::function<void(const Hello&)> greeted,
          std::function<void(const Error&)> over);
  ~Leaving();
  Result<> start();
  // Asks the source again, if it had nothing the last time.
  void go_on();
  // No more units: says BYE when the last one is spoken for.
  void finish();
  // A unit is on its way.
  [[nodiscard]] bool busy() const { return state_ == State::kOffered; }

 private:
  enum class State : uint8_t { kGreeting, kIdle, kOffered, kOver };
  void on_message(Received message) noexcept override;
  void on_end(const Error& why, bool other_closed) noexcept override;
  void offer();
  void on_limit();
  void take_back(const Error& why);
  void end(const Error& why);

  EventLoop& loop_;
  Channel channel_;
  const Hello hello_;
  UnitSource& source_;
  std::function<void(const Hello&)> greeted_;
  std::function<void(const Error&)> over_;
  Timer limit_;
  State state_ = State::kGreeting;
  bool finishing_ = false;
  bool aborted_ = false;  // the answer to a unit that was taken back has not come yet
};

// What the one who comes does with units. One is prepared at most.
class UnitSink {
 public:
  // Builds what can run, and touches no socket. Errors: why not; `descriptors` are closed then.
  virtual Result<> prepare(Unit unit, std::vector<UniqueFd> descriptors) noexcept = 0;
  // The prepared one runs from here on.
  virtual void run() noexcept = 0;
  // The prepared one is forgotten without a word: the other goes on with it.
  virtual void drop() noexcept = 0;

 protected:
  ~UnitSink() = default;
};

// The one who comes, on one connection. Owned by its worker; one thread.
class Arriving final : private Channel::User {
 public:
  // `over`: nothing more comes, after every prepared unit has been spoken for. May destroy this.
  Arriving(EventLoop& loop, UniqueFd socket, Hello hello, UnitSink& sink, std::function<void(const Error&)> over);
  // Closed first, then a prepared unit is dropped: the other goes on with it.
  ~Arriving();
  Result<> start();

 private:
  void on_message(Received message) noexcept override;
  void on_end(const Error& why, bool other_closed) noexcept override;
  void take(Received message);
  void refuse(const Error& why);

  EventLoop& loop_;
  Channel channel_;
  const Hello hello_;
  UnitSink& sink_;
  std::function<void(const Error&)> over_;
  std::optional<uint16_t> format_;
  bool prepared_ = false;
};

}  // namespace zt::handover
