#pragma once
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "base/event_loop.h"

namespace zt {

// What a thread holds while another one owes it answers. They run on the holder's loop; once the ticket is destroyed they are
// dropped, wherever they are on their way, and nothing touches the loop any more. So whoever asks may end before whoever is
// asked, and neither has to know of the other's end.
//
// Made and destroyed on the loop's thread (or once that has ended), before the loop.
class Ticket {
 public:
  explicit Ticket(EventLoop& loop);
  ~Ticket();
  Ticket(const Ticket&) = delete;

  // What to hand to the other thread. Callable on any thread, more than once, during and after the ticket's life; each call runs
  // a copy of `then` with a copy of what it was called with. `then` may destroy the ticket.
  template <class Then>
  [[nodiscard]] auto on_answer(Then then) const {
    return [stub = stub_, then = std::move(then)](auto&&... answer) {
      deliver(stub, [then, held = std::tuple<std::decay_t<decltype(answer)>...>(
                               std::forward<decltype(answer)>(answer)...)]() mutable { std::apply(then, std::move(held)); });
    };
  }

 private:
  struct Stub;
  static void deliver(const std::shared_ptr<Stub>& stub, std::move_only_function<void()> answer);
  std::shared_ptr<Stub> stub_;
};

}  // namespace zt
