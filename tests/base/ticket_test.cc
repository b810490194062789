#include "base/ticket.h"

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

using namespace zt;
using namespace std::chrono_literals;

TEST_CASE("An answer of another thread runs on the loop of whoever holds the ticket") {
  EventLoop loop;
  Ticket ticket(loop);
  std::string answer;
  std::thread::id ran_on;
  std::thread other([done = ticket.on_answer([&](const std::string& text, int number) {
    answer = text + std::to_string(number);
    ran_on = std::this_thread::get_id();
  })] { done("seven: ", 7); });
  CHECK(loop.run_until([&] { return !answer.empty(); }, 10s));
  other.join();
  CHECK(answer == "seven: 7");
  CHECK(ran_on == std::this_thread::get_id());
}

TEST_CASE("What a destroyed ticket was owed is dropped, on its way or not yet given, and the loop may be gone too") {
  auto loop = std::make_unique<EventLoop>();
  std::optional<Ticket> ticket(*loop);
  int ran = 0;
  const auto done = ticket->on_answer([&] { ++ran; });
  done();
  ticket.reset();
  loop->run_once(0s);
  CHECK(ran == 0);
  done();
  loop->run_once(0s);
  loop.reset();
  done();
  CHECK(ran == 0);
}

TEST_CASE("An answer may destroy the ticket that it came for, and then nothing more comes") {
  EventLoop loop;
  std::optional<Ticket> ticket(loop);
  int ran = 0;
  const auto done = ticket->on_answer([&] {
    ++ran;
    ticket.reset();
  });
  done();
  done();
  loop.run_once(0s);
  loop.run_once(0s);
  CHECK(ran == 1);
}

TEST_CASE("Threads that answer while the ticket goes do no harm") {
  for (int round = 0; round < 50; ++round) {
    auto loop = std::make_unique<EventLoop>();
    std::optional<Ticket> ticket(*loop);
    int ran = 0;
    std::vector<std::thread> others;
    for (int i = 0; i < 3; ++i) {
      others.emplace_back([done = ticket->on_answer([&ran](int n) { ran += n; })] {
        for (int n = 0; n < 100; ++n) done(1);
      });
    }
    loop->run_until([&] { return ran > 10; }, 10s);
    ticket.reset();
    const int before = ran;
    loop->run_once(0s);
    CHECK(ran == before);
    loop.reset();
    for (auto& other : others) other.join();
  }
}
