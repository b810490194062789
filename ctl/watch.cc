#include "ctl/watch.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>

#include "ctl/live.h"

namespace zt::ctl {

using ztunnel::CommandResult;
using Clock = std::chrono::steady_clock;

namespace {

volatile std::sig_atomic_t g_stopped = 0;

void stop(int /*signal*/) { g_stopped = 1; }

// Ctrl-C ends the loop, so that the terminal is given back as it was.
class Stoppable {
 public:
  Stoppable() {
    struct sigaction action{};
    action.sa_handler = stop;
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
  }
};

// Keys without Enter, on a second screen that leaves what was on the first.
class Page {
 public:
  Page() : drawn_(::isatty(STDOUT_FILENO) == 1) {
    if (!drawn_) return;
    std::fputs("\x1b[?1049h\x1b[?25l", stdout);
    if (::isatty(STDIN_FILENO) != 1 || ::tcgetattr(STDIN_FILENO, &before_) != 0) return;
    keys_ = true;
    termios now = before_;
    now.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &now);
  }
  Page(const Page&) = delete;
  ~Page() {
    if (drawn_) std::fputs("\x1b[?25h\x1b[?1049l", stdout);
    if (keys_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    std::fflush(stdout);
  }

  [[nodiscard]] bool drawn() const { return drawn_; }

  // The key that was pressed within the time; nothing: none.
  [[nodiscard]] std::optional<char> wait(Clock::duration time) const {
    pollfd input{.fd = keys_ ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0};
    const auto millis = std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
    if (::poll(&input, 1, static_cast<int>(millis)) <= 0) return std::nullopt;
    char key = 0;
    return ::read(STDIN_FILENO, &key, 1) == 1 ? std::optional(key) : std::nullopt;
  }

  void show(std::string_view text) const {
    if (!drawn_) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
      return;
    }
    winsize size{};
    size_t lines = 24, columns = 80;
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0) lines = size.ws_row, columns = size.ws_col;
    std::string out = "\x1b[H";
    for (size_t line = 0; line < lines; ++line) {
      const size_t end = text.find('\n');
      std::string one(text.substr(0, end));
      text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
      if (one.size() > columns) one.resize(columns);
      // The title and the heads of the columns stand out.
      if (line == 0 || line == 2) one = "\x1b[1m" + one + "\x1b[0m";
      out += one + "\x1b[K" + (line + 1 < lines ? "\r\n" : "");
    }
    std::fwrite(out.data(), 1, out.size(), stdout);
    std::fflush(stdout);
  }

 private:
  const bool drawn_;
  bool keys_ = false;
  termios before_{};
};

struct Order {
  char key;
  const char* member;
  const char* text;
};
constexpr Order kOrders[] = {{'b', "bytesPerSecond", "bytes"},
                             {'o', "open", "open"},
                             {'n', "openedPerSecond", "new"},
                             {'f', "failedPerSecond", "failed"},
                             {'p', "pod", "pod"}};

std::string totals(const Listing& listing) {
  double open = 0, opened = 0, failed = 0, bytes = 0;
  for (const auto& row : listing.rows) {
    open += row.at("open").to_number<double>();
    opened += row.at("openedPerSecond").to_number<double>();
    failed += row.at("failedPerSecond").to_number<double>();
    bytes += row.at("bytesPerSecond").to_number<double>();
  }
  return fmt::format("{} pods, {:.0f} open, {:.1f} new/s, {:.1f} failed/s, {}/s", listing.rows.size(), open, opened, failed,
                     bytes_text(static_cast<uint64_t>(bytes)));
}

CommandResult failed(const Error& why) {
  return {.exit_code = 1, .out = {}, .errors = fmt::format("ztunnelctl: {}\n", why.text)};
}

std::unexpected<Error> of_no_dump() {
  return fail(Fault::kInvalidInput, "a dump stands still: leave --dump out, and --admin says which proxy");
}

// The names of addresses; of those that come later, after the next time that it is asked.
Result<Names> names_of(const Options& options) {
  ZT_ASSIGN(const Dump dump, read_dump(options.source));
  return Names(dump);
}

}  // namespace

CommandResult run_top(const Options& options) {
  if (!options.source.file.empty()) return failed(of_no_dump().error());
  const Stoppable stoppable;
  const auto every = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.every));
  auto before = look(options.source.admin);
  if (!before) return failed(before.error());
  auto at = Clock::now();
  Order order = kOrders[0];
  std::optional<Error> lost;
  {
    const Page page;
    for (int shown = 0; g_stopped == 0 && (options.times == 0 || shown < options.times);) {
      if (const auto key = page.wait(at + every - Clock::now())) {
        if (*key == 'q') break;
        for (const Order& each : kOrders)
          if (each.key == *key) order = each;
        continue;
      }
      if (g_stopped != 0 || Clock::now() < at + every) continue;
      auto after = look(options.source.admin);
      const auto now = Clock::now();
      if (!after) {
        lost = after.error();
        break;
      }
      Listing listing = rates(*before, *after, std::chrono::duration<double>(now - at).count(), options.filter);
      sort_by(listing, order.member, order.key != 'p');
      const uint64_t unseen = new_ends(*before, *after).unseen;
      const std::string note = unseen > 0 ? fmt::format("; {} short connections were too many to be counted", unseen) : "";
      if (options.json) {
        page.show(json_of(listing));
      } else {
        page.show(fmt::format(
            "{}: {}{}\n{}\n{}", options.source.admin, totals(listing), note,
            page.drawn() ? fmt::format("order: {}    b bytes  o open  n new  f failed  p pod  q quit", order.text) : "",
            table_of(listing)));
      }
      ++shown;
      before = std::move(after);
      at = now;
    }
  }
  if (lost) return failed(*lost);
  return {};
}

CommandResult run_tap(const Options& options) {
  if (!options.source.file.empty()) return failed(of_no_dump().error());
  const Stoppable stoppable;
  auto names = names_of(options);
  if (!names) return failed(names.error());
  auto before = look(options.source.admin);
  if (!before) return failed(before.error());
  const bool colours = ::isatty(STDOUT_FILENO) == 1;
  for (int looked = 0; g_stopped == 0 && (options.times == 0 || looked < options.times); ++looked) {
    ::poll(nullptr, 0, static_cast<int>(options.every * 1000));
    if (g_stopped != 0) break;
    auto after = look(options.source.admin);
    if (!after) return failed(after.error());
    const std::string text = tap_text(*before, *after, options.filter, *names, colours);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    before = std::move(after);
  }
  return {};
}

}  // namespace zt::ctl
