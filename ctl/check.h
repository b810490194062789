#pragma once
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/linux/netns.h"
#include "base/result.h"
#include "ctl/dump.h"

// Is this node set up right? Each question has an answer, and what is wrong its remedy.
namespace zt::ctl {

struct Answer {
  enum class Verdict : uint8_t {
    kRight,
    kDoubtful,  // it works, and may not be what is wanted
    kWrong,
    kNotAsked,  // it could not be, and `text` says why
  };
  std::string question;  // "certificate of spiffe://…"
  Verdict verdict = Verdict::kRight;
  std::string text;
  std::string remedy;  // empty if nothing is to be done
};
using Answers = std::vector<Answer>;

struct CheckAsked {
  Source source;
  std::string stats = "localhost:15020";
  std::string readiness = "localhost:15021";
  int pid = 0;  // of the proxy; 0: found by its name
};

// All of it. Blocks for some seconds.
[[nodiscard]] Answers check(const CheckAsked& asked);

// ---- Its parts

// Of what the proxy says of itself. `now`: seconds since 1970.
void check_dump(const Dump& dump, int64_t now, Answers& answers);
void check_readiness(const std::string& address, Answers& answers);
void check_metrics(const std::string& address, const Dump& dump, Answers& answers);
// The local file that the proxy reads, read anew: a mistake in it is only in the proxy's log, and the last good one stays in force.
void check_local_file(const Dump& dump, Answers& answers);
// Of the machine that this runs on: kernel, the proxy's capabilities, clock.
void check_kernel(Answers& answers);
void check_capabilities(std::string_view proc_status, Answers& answers);
void check_clock(Answers& answers);
// Of each pod that the proxy serves: its listeners, and the rules that lead there. `namespaces`: in which the pods are sought, by their
// addresses. `sockets`: the proxy's, by inode; of several namespaces with a pod's address its is the one where the proxy listens.
void check_pods(const Dump& dump, const std::vector<std::shared_ptr<const Netns>>& namespaces, const std::set<uint64_t>& sockets,
                Answers& answers);

// The proxies in this process's network namespace, or `pid`; and the sockets that one holds.
[[nodiscard]] std::vector<int> find_proxies(int pid);
[[nodiscard]] std::set<uint64_t> sockets_of(int pid);
// The network namespaces of this node: those that have a name, and those of processes.
[[nodiscard]] std::vector<std::shared_ptr<const Netns>> all_namespaces();

// A line each, and a sum. True: nothing is wrong.
[[nodiscard]] std::string answers_text(const Answers& answers);
[[nodiscard]] json::array answers_json(const Answers& answers);
[[nodiscard]] bool all_right(const Answers& answers);

}  // namespace zt::ctl
