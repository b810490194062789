#include "handover/protocol.h"

#include <algorithm>
#include <utility>

#include "mesh/reason.h"

namespace zt::handover {

namespace {
std::string text_of(const Received& message) {
  return {message.bytes.begin(), message.bytes.begin() + static_cast<ptrdiff_t>(std::min<size_t>(message.bytes.size(), 500))};
}
}  // namespace

// ---- The one who leaves

Leaving::Leaving(EventLoop& loop, UniqueFd socket, Hello hello, UnitSource& source, std::function<void(const Hello&)> greeted,
                 std::function<void(const Error&)> over)
    : loop_(loop),
      channel_(loop, std::move(socket), kMaxUnitBytes, *this),
      hello_(std::move(hello)),
      source_(source),
      greeted_(std::move(greeted)),
      over_(std::move(over)),
      limit_(loop) {}

Leaving::~Leaving() {
  if (state_ == State::kOffered) take_back({Reason::kIo, "the hand-over was given up"});
}

Result<> Leaving::start() {
  ZT_TRY(channel_.start());
  channel_.send(Message::kHello, encode(hello_), {});
  limit_.start_after(kHelloLimit, [this] { on_limit(); });
  return {};
}

void Leaving::go_on() {
  if (state_ == State::kIdle) offer();
}

void Leaving::finish() {
  finishing_ = true;
  go_on();
}

void Leaving::offer() {
  if (aborted_) return;  // its answer comes first
  auto frozen = finishing_ ? std::nullopt : source_.next();
  if (!frozen) {
    if (!finishing_) return;
    (void)channel_.say(Message::kBye);
    return end({Reason::kOk, "done"});
  }
  state_ = State::kOffered;
  limit_.start_after(kReadyLimit, [this] { on_limit(); });
  channel_.send(Message::kUnit, std::move(frozen->bytes), std::move(frozen->descriptors));
}

void Leaving::on_message(Received message) noexcept {
  switch (message.message) {
    case Message::kHello: {
      if (state_ != State::kGreeting) break;
      auto theirs = decode_hello(message.bytes);
      if (!theirs) return end(theirs.error());
      if (auto format = agree(hello_, *theirs); !format) return end(format.error());
      limit_.cancel();
      state_ = State::kIdle;
      greeted_(*theirs);
      return offer();
    }
    case Message::kReady:
    case Message::kRefuse:
      if (std::exchange(aborted_, false)) return go_on();  // too late: it is ours, and the other has read that by now
      if (state_ != State::kOffered) break;
      limit_.cancel();
      state_ = State::kIdle;
      if (message.message == Message::kRefuse) {
        source_.stays({Reason::kIo, text_of(message)});
      } else {
        // It runs the unit when it reads COMMIT, and if it finds our end closed after its READY: in each case but one it is the other's
        // from here on, whatever becomes of either of us. It does not run it after it has closed.
        const auto said = channel_.say(Message::kCommit);
        if (said == Channel::Said::kOtherClosed) {
          source_.stays({Reason::kIo, "the other process was gone before it was told to take over"});
        } else {
          if (said == Channel::Said::kNo) channel_.close();
          source_.gone();
        }
        if (said != Channel::Said::kYes) return end({Reason::kIo, "the other process could not be told to take over"});
      }
      return offer();
    case Message::kBye: return end({Reason::kOk, "the other process takes nothing more"});
    default: break;
  }
  end({Reason::kInvalidInput, "the other process says something out of turn"});
}

void Leaving::on_end(const Error& why, bool) noexcept { end(why); }

void Leaving::on_limit() {
  if (state_ == State::kGreeting) return end({Reason::kIo, "the other process does not say hello"});
  if (state_ != State::kOffered) return;
  const Error late{Reason::kIo, "the other process was not ready in time"};
  if (!channel_.sent()) return end(late);
  take_back(late);
}

// We may go on with the unit if the other one cannot run it: the unit has not come whole and never will, or it will read ABORT before it
// finds our end closed, or its end is closed. If none of this can be had, it is shut off from answering; if it had answered
// before, it runs the unit.
void Leaving::take_back(const Error& why) {
  state_ = State::kIdle;
  limit_.cancel();
  if (!channel_.sent()) {
    channel_.close();
    return source_.stays(why);
  }
  if (channel_.say(Message::kAbort) != Channel::Said::kNo) {
    aborted_ = true;
    return source_.stays(why);
  }
  if (channel_.close_and_ask_for(Message::kReady)) return source_.gone();
  source_.stays(why);
}

void Leaving::end(const Error& why) {
  if (state_ == State::kOver) return;
  if (state_ == State::kOffered) take_back(why);
  state_ = State::kOver;
  limit_.cancel();
  channel_.close();
  // Not from inside of the channel's call: its owner may destroy us.
  loop_.post([over = std::exchange(over_, nullptr), why] { over(why); });
}

// ---- The one who comes

Arriving::Arriving(EventLoop& loop, UniqueFd socket, Hello hello, UnitSink& sink, std::function<void(const Error&)> over)
    : loop_(loop),
      channel_(loop, std::move(socket), kMaxUnitBytes, *this),
      hello_(std::move(hello)),
      sink_(sink),
      over_(std::move(over)) {}

Arriving::~Arriving() {
  channel_.close();
  if (std::exchange(prepared_, false)) sink_.drop();
}

Result<> Arriving::start() { return channel_.start(); }

void Arriving::on_message(Received message) noexcept {
  switch (message.message) {
    case Message::kHello: {
      if (format_) break;
      const auto theirs = decode_hello(message.bytes);
      // It decides on the same grounds; what is said here is for its log.
      channel_.send(Message::kHello, encode(hello_), {});
      const auto format = theirs ? agree(hello_, *theirs) : std::unexpected(theirs.error());
      if (format) format_ = *format;
      return;
    }
    case Message::kUnit:
      if (!format_ || prepared_) break;
      return take(std::move(message));
    case Message::kCommit:
      if (!std::exchange(prepared_, false)) break;
      return sink_.run();
    case Message::kAbort:
      // Ours may have been a refusal.
      if (std::exchange(prepared_, false)) sink_.drop();
      return;
    case Message::kBye: channel_.close(); return on_end({Reason::kOk, "done"}, true);
    default: break;
  }
  channel_.close();
  on_end({Reason::kInvalidInput, "the other process says something out of turn"}, false);
}

void Arriving::take(Received message) {
  if (message.descriptors_lost) {
    return refuse({Reason::kResourceLimit,
                   "descriptors were lost on the way: a security module refuses them, or there are too many open files"});
  }
  auto unit = decode(message.bytes, *format_);
  if (!unit) return refuse(unit.error());
  if (descriptors(*unit) != message.descriptors.size()) {
    return refuse({Reason::kInvalidInput, "a unit with " + std::to_string(message.descriptors.size()) +
                                              " descriptors that names " + std::to_string(descriptors(*unit))});
  }
  if (auto prepared = sink_.prepare(std::move(*unit), std::move(message.descriptors)); !prepared) return refuse(prepared.error());
  prepared_ = true;
  // Once it is in the socket, the other may die and we go on. If it cannot be, nobody waits for it.
  if (channel_.say(Message::kReady) == Channel::Said::kYes) return;
  channel_.close();
  on_end({Reason::kIo, "the other process cannot be answered"}, false);
}

void Arriving::refuse(const Error& why) {
  if (channel_.say(Message::kRefuse, {reinterpret_cast<const uint8_t*>(why.text.data()), why.text.size()}) != Channel::Said::kNo)
    return;
  channel_.close();
  on_end({Reason::kIo, "the other process cannot be answered"}, false);
}

// The other's end is closed, and it has read no REFUSE and sent no ABORT: it is dead, with the unit frozen, or thinks that it is ours.
void Arriving::on_end(const Error& why, bool other_closed) noexcept {
  if (std::exchange(prepared_, false)) {
    if (other_closed) {
      sink_.run();
    } else {
      sink_.drop();
    }
  }
  if (over_) loop_.post([over = std::exchange(over_, nullptr), why] { over(why); });
}

}  // namespace zt::handover
