#include "ctl/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "ctl/metrics.h"
#include "ctl/status.h"
#include "ztunnel/explain/admin_client.h"
#include "ztunnel/explain/check.h"

// What the proxy says of itself.
namespace zt::ctl {

namespace {

using Verdict = Answer::Verdict;

std::string_view word_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kRight: return "ok";
    case Verdict::kDoubtful: return "doubtful";
    case Verdict::kWrong: return "wrong";
    case Verdict::kNotAsked: return "not asked";
  }
  return "";
}

std::string pending_remedy(std::string_view pending) {
  if (pending.contains("state manager"))
    return "it waits for the first word of the control plane: is istiod reachable (see below), or LOCAL_XDS_PATH readable?";
  if (pending.contains("workload proxy manager"))
    return "it waits for the node agent: does ztunnel-agent or istio-cni run on this node, and have both the socket that "
           "INPOD_UDS names?";
  return "the proxy's log says what it waits for";
}

double value_of(const std::vector<Sample>& samples, std::string_view name, double otherwise) {
  for (const Sample& sample : samples)
    if (sample.name == name) return sample.value;
  return otherwise;
}

}  // namespace

void check_readiness(const std::string& address, Answers& answers) {
  const auto ready = ztunnel::ask_admin(address, "GET", "/healthz/ready");
  if (!ready) {
    answers.push_back(
        {"readiness", Verdict::kNotAsked, ready.error().text, "--readiness says where it is asked, 15021 by default"});
    return;
  }
  if (ready->status == 200) {
    answers.push_back({"readiness", Verdict::kRight, "ready", ""});
    return;
  }
  const std::string said = ready->body.substr(0, ready->body.find('\n'));
  answers.push_back({"readiness", Verdict::kWrong, said, pending_remedy(said)});
}

void check_metrics(const std::string& address, const Dump& dump, Answers& answers) {
  const auto samples = fetch_metrics(address);
  if (!samples) {
    answers.push_back(
        {"control plane", Verdict::kNotAsked, samples.error().text, "--stats says where metrics are, 15020 by default"});
    return;
  }
  const json::object& config = dump.object("config");
  if (text_in(config, "proxyMode") == "Shared") {
    const bool connected = value_of(*samples, "zt_agent_connected", 1) > 0;
    answers.push_back(
        {"node agent", connected ? Verdict::kRight : Verdict::kWrong, connected ? "connected" : "not connected",
         connected ? ""
                   : fmt::format("start ztunnel-agent or istio-cni on this node; the proxy waits at {}. Until then no pod "
                                 "comes or goes, and those that are served go on",
                                 text_in(config, "inpodUds"))});
  }
  if (text_in(config, "xdsAddress").empty()) {
    answers.push_back({"control plane", Verdict::kRight, "none is configured; a local file says what the mesh is", ""});
  } else if (value_of(*samples, "zt_xds_connected", -1) > 0) {
    answers.push_back({"control plane", Verdict::kRight, fmt::format("{} answers", text_in(config, "xdsAddress")), ""});
  } else if (value_of(*samples, "zt_xds_connected", -1) < 0) {
    answers.push_back({"control plane", Verdict::kNotAsked, "this proxy has no metric that says so", ""});
  } else {
    const double age = value_of(*samples, "zt_xds_last_ack_age_seconds", -1);
    answers.push_back(
        {"control plane", Verdict::kWrong,
         fmt::format("{} does not answer{}", text_in(config, "xdsAddress"),
                     age < 0 ? "" : fmt::format("; what is known is {} old", span_text(static_cast<int64_t>(age * 1000)))),
         "is istiod up, and its service reachable from this node? Connections go on meanwhile, new pods and policies are not "
         "learnt. The log's lines of scope xds say what failed"});
  }
  if (const double refused = value_of(*samples, "zt_xds_rejected_resources_total", 0); refused > 0)
    answers.push_back({"resources", Verdict::kDoubtful,
                       fmt::format("{:.0f} resources of the control plane were refused", refused),
                       "the log's lines of scope xds name them and say why"});
  if (const double cuts = value_of(*samples, "zt_memory_cuts_total", 0); cuts > 0)
    answers.push_back({"memory", Verdict::kDoubtful,
                       fmt::format("{:.0f} connections or tunnels were ended because memory was used up", cuts),
                       "give the proxy's container more memory, or ZT_MEMORY_BUDGET; `ztunnelctl connections --sort bytes` says "
                       "who moves much"});
  const double held = value_of(*samples, "process_open_fds", 0), most = value_of(*samples, "process_max_fds", 0);
  if (most > 0 && held > most * 0.9)
    answers.push_back({"descriptors", Verdict::kWrong, fmt::format("{:.0f} of {:.0f} are open", held, most),
                       "raise the limit of open files of the proxy (LimitNOFILE, ulimit -n)"});
}

void check_dump(const Dump& dump, int64_t now, Answers& answers) {
  answers.push_back({"proxy", Verdict::kRight,
                     fmt::format("{} answers, version {}", dump.origin, text_in(dump.object("version"), "version")), ""});
  const Listing held = certificates(dump, {}, now, false);
  for (const auto& row : held.rows) {
    Answer answer{
        .question = fmt::format("certificate of {}", text_in(row, "identity")), .verdict = {}, .text = {}, .remedy = {}};
    const json::value* left = row.if_contains("daysLeft");
    const auto from = parse_time(text_in(row, "validFrom"));
    if (from && *from > now) {
      answer.verdict = Verdict::kWrong;
      answer.text =
          fmt::format("valid only from {} on, which is {} ahead", text_in(row, "validFrom"), span_text((*from - now) * 1000));
      answer.remedy = "the clock of this node is behind the CA's: set it (chrony, systemd-timesyncd)";
    } else if (left != nullptr && left->to_number<double>() < 0) {
      answer.verdict = Verdict::kWrong;
      answer.text = fmt::format("ran out at {}", text_in(row, "expirationTime"));
      answer.remedy =
          "the CA gave no new one: is it reachable (the log's lines of scope ca and identity say why not), and is this clock "
          "right?";
    } else if (text_in(row, "state") != "Available") {
      answer.verdict = Verdict::kWrong;
      answer.text = text_in(row, "state");
      answer.remedy = "the text says what the CA answered; a service account that no pod of this node has is refused by istiod";
    } else {
      const auto millis = left == nullptr ? 0 : static_cast<int64_t>(left->to_number<double>() * 86'400'000);
      answer.text = fmt::format("{} left", span_text(millis));
    }
    answers.push_back(std::move(answer));
  }
  for (const auto& row : pods(dump, {}).rows) {
    if (text_in(row, "state") == "Up") continue;
    answers.push_back({fmt::format("pod {}/{}", text_in(row, "namespace"), text_in(row, "name")), Verdict::kWrong,
                       fmt::format("its listeners are not up: {}", text_in(row, "state")),
                       "the proxy's log says why: most often another program in the pod has port 15001, 15006 or 15008"});
  }
}

void check_local_file(const Dump& dump, Answers& answers) {
  const json::value* own = dump.object("config").if_contains("zt");
  if (own == nullptr || !own->is_object()) return;
  const std::string path(text_in(own->get_object(), "localXdsPath"));
  if (path.empty()) return;
  const std::string question = fmt::format("local file {}", path);
  const auto checked = ztunnel::check_file(path);
  if (!checked) {
    answers.push_back({question, Verdict::kNotAsked, checked.error().text, "run this where the proxy runs"});
    return;
  }
  if (checked->mistakes() == 0) {
    answers.push_back({question, Verdict::kRight, "no mistakes", ""});
    return;
  }
  const auto first = std::ranges::find(checked->findings, ztunnel::Finding::Kind::kMistake, &ztunnel::Finding::kind);
  answers.push_back(
      {question, Verdict::kWrong,
       fmt::format("{} mistakes, the first in line {}, column {}: {}", checked->mistakes(), first->mark.line, first->mark.column,
                   first->text),
       fmt::format("the last good one stays in force until it is mended; `ztunnel check-config {}` says all of them", path)});
}

Answers check(const CheckAsked& asked) {
  Answers answers;
  const auto dump = read_dump(asked.source);
  if (!dump) {
    answers.push_back({"proxy", Verdict::kWrong, dump.error().text, "start ztunnel, or say with --admin where it is"});
    if (!asked.source.file.empty()) return answers;
  } else {
    check_dump(*dump, ::time(nullptr), answers);
  }
  if (!asked.source.file.empty()) return answers;  // of another time, and perhaps another machine
  check_readiness(asked.readiness, answers);
  if (dump) check_metrics(asked.stats, *dump, answers);
  if (dump) check_local_file(*dump, answers);
  check_clock(answers);
  check_kernel(answers);
  const auto proxies = find_proxies(asked.pid);
  if (proxies.empty()) {
    answers.push_back(
        {"pods", Verdict::kNotAsked, "no process named ztunnel is seen here: its capabilities and its pods are not looked at",
         "run this on the node, in the proxy's network namespace; --pid names a process that is elsewhere or has another name"});
    return answers;
  }
  std::set<uint64_t> sockets;
  for (const int pid : proxies) sockets.merge(sockets_of(pid));
  check_capabilities(std::to_string(proxies.front()), answers);
  if (dump) check_pods(*dump, all_namespaces(), sockets, answers);
  return answers;
}

std::string answers_text(const Answers& answers) {
  std::string out;
  size_t wrong = 0, doubtful = 0, right = 0;
  for (const Answer& answer : answers) {
    wrong += answer.verdict == Verdict::kWrong ? 1 : 0;
    doubtful += answer.verdict == Verdict::kDoubtful || answer.verdict == Verdict::kNotAsked ? 1 : 0;
    right += answer.verdict == Verdict::kRight ? 1 : 0;
    const char* sign = answer.verdict == Verdict::kRight ? "✓" : answer.verdict == Verdict::kWrong ? "✗" : "?";
    out += fmt::format("{} {}: {}\n", sign, answer.question, answer.text);
    if (!answer.remedy.empty()) out += fmt::format("    → {}\n", answer.remedy);
  }
  return out + fmt::format("{} right, {} wrong, {} doubtful or not asked\n", right, wrong, doubtful);
}

json::array answers_json(const Answers& answers) {
  json::array list;
  for (const Answer& answer : answers)
    list.push_back(
        {{"question", answer.question}, {"verdict", word_of(answer.verdict)}, {"text", answer.text}, {"remedy", answer.remedy}});
  return list;
}

bool all_right(const Answers& answers) {
  return std::ranges::none_of(answers, [](const Answer& answer) { return answer.verdict == Verdict::kWrong; });
}

}  // namespace zt::ctl
