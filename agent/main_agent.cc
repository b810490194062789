#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/agent.h"
#include "agent/agent_metrics.h"
#include "agent/agent_options.h"
#include "agent/cni_install/cni_install.h"
#include "agent/cni_server.h"
#include "agent/http_server.h"
#include "agent/kubernetes_source.h"
#include "agent/last_wish.h"
#include "agent/leave_pods.h"
#include "agent/probe_exemption.h"
#include "base/event_loop.h"
#include "base/linux/signals.h"
#include "base/log.h"
#include "cni/plugin.h"
#include "kubernetes/api_client.h"
#include "kubernetes/cluster_config.h"
#include "mesh/reason.h"
#include "redirection/backends/backends.h"
#include "zds/zds_socket.h"

namespace zt::agent {
namespace {

log::Scope log_main("agent");

int complain(const std::string& text) {
  log::stop();
  std::fprintf(stderr, "ztunnel-agent: %s\n", text.c_str());
  return 1;
}

int run(const AgentOptions& options, Signals& signals) {
  EventLoop loop;
  const auto redirector = redirection::make_redirector(options.redirection);
  if (!redirector) return complain(redirector.error().text);
  Agent agent(loop, **redirector, options.agent);
  // SIGHUP reads the pods file again, SIGTERM and SIGINT end the agent, a second one at once.
  const auto on_signal = [&, ending = false](int number) mutable {
    if (number == SIGHUP) {
      agent.reload();
    } else if (options.cleanup && !std::exchange(ending, true)) {
      ZT_LOG(log_main, kInfo, "ending: all pods leave");
      agent.leave_all([&] { loop.stop(); });
    } else {
      ZT_LOG(log_main, kInfo, "ending: pods stay redirected");
      loop.stop();
    }
  };
  if (auto watched = signals.watch(loop, on_signal); !watched) return complain(watched.error().text);
  if (auto started = agent.start(); !started) return complain(started.error().text);
  loop.run();
  log::stop();
  return 0;
}

CniInstall::Options install_of(const AgentOptions& options) {
  const auto& excluded = options.rules.excluded_namespaces;
  return {.program = options.cni_program,
          .bin_folder = options.cni_bin_folder,
          .conf_folder = options.cni_conf_folder,
          .conf_name = options.cni_conf_name,
          .entry = {.run_folder = std::filesystem::path(options.cni_socket).parent_path().string(),
                    .excluded_namespaces = {excluded.begin(), excluded.end()},
                    .pod_namespace = options.pod_namespace}};
}

// The pods come from Kubernetes, and the CNI plugin asks before one starts.
int run_with_kubernetes(const AgentOptions& options, Signals& signals) {
  const auto env = [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  auto cluster = kubernetes::in_cluster(env, options.service_account_folder);
  if (!cluster) return complain(cluster.error().text);
  const auto own = Netns::current();
  if (!own) return complain(own.error().text);
  ZT_LOG(log_main, kInfo, "pods come from Kubernetes", Field::string("api", cluster->url()), Field::string("node", options.node));

  EventLoop loop;
  const auto redirector = redirection::make_redirector(options.redirection);
  if (!redirector) return complain(redirector.error().text);
  PodNamespaces namespaces(options.host_proc, own->id());
  kubernetes::ApiClient api(loop, std::move(*cluster));
  KubernetesSource* source = nullptr;
  Agent::Options agent_options = options.agent;
  // From the annotation's going istiod has to hear of it, and to tell all proxies of the mesh.
  agent_options.least_leave = std::min(std::chrono::milliseconds(5000), options.agent.leave_limit);
  agent_options.find_namespace = [&](const PodSpec& spec) { return namespaces.find(spec.uid); };
  agent_options.on_change = [&](const std::string& uid) {
    if (source != nullptr) source->on_pod_changed(uid);
  };
  Agent agent(loop, **redirector, std::move(agent_options));
  ProbeExemption probes(loop, {.proc = options.host_proc, .interval = options.agent.verify_interval});
  KubernetesSource pods(loop, api, agent, namespaces,
                        {.node = options.node,
                         .rules = options.rules,
                         .defaults = options.agent.defaults,
                         .on_probed = [&](redirection::ProbedPods probed) { probes.set(std::move(probed)); }});
  source = &pods;
  std::optional<CniInstall> install;
  // Until the plugin is there pods start without asking: nobody may count on the node yet.
  const auto ready = [&]() -> Result<> {
    if (options.cni_conf_folder.empty() || (install && install->installed())) return {};
    return fail(Reason::kNotFound, "the CNI plugin is not on the node yet");
  };
  std::optional<CniServer> cni;
  if (!options.cni_socket.empty()) {
    cni.emplace(loop, options.cni_socket, ready, [&](CniRequest request, CniServer::Done done) {
      pods.cni_add({.ns = std::move(request.ns),
                    .name = std::move(request.pod),
                    .netns = options.host_root + request.netns,
                    .ips = std::move(request.ips),
                    .uid = std::move(request.uid)},
                   std::move(done));
    });
  }
  HttpServer metrics(loop, "metrics", [&](const HttpRequest& request, const HttpServer::Reply& reply) {
    if (request.method != "GET") return reply({405, "only GET"});
    if (request.target == "/healthz") return reply({});
    if (request.target == "/readyz") {
      const auto is_ready =
          pods.serving() ? ready() : fail(Reason::kNotFound, "the lists of pods and namespaces are not here yet");
      return reply(is_ready ? HttpAnswer{} : HttpAnswer{503, is_ready.error().text});
    }
    if (request.target != "/metrics") return reply({404, "/metrics, /readyz and /healthz are known"});
    reply({200,
           render_metrics({.pods = agent.counts(),
                           .proxies = agent.proxies(),
                           .backend = std::string((*redirector)->name()),
                           .source = pods.counts(),
                           .probes = probes.counts(),
                           .plugin_answers = cni ? cni->answers() : std::map<unsigned, uint64_t>{},
                           .installs = install ? install->counts() : CniInstall::Counts{},
                           .installed = install && install->installed()}),
           "text/plain; version=0.0.4"});
  });
  const CniInstall::Options install_options = install_of(options);
  std::unique_ptr<LastWish> last_wish;
  const auto on_signal = [&](int number) {
    if (number == SIGHUP) return;
    ZT_LOG(log_main, kInfo, "ending: pods stay redirected");
    if (!install || last_wish) return loop.stop();
    // Whether another agent follows is for the API to say. Without its word the plugin stays: pods wait for the next agent.
    install.reset();
    last_wish = std::make_unique<LastWish>(loop, api, options.pod_namespace, options.daemon_set, [&](bool gone) {
      if (gone) {
        ZT_LOG(log_main, kInfo, "the agent's DaemonSet is gone: the CNI plugin is removed");
        if (auto removed = CniInstall::remove(install_options); !removed) {
          ZT_LOG(log_main, kError, "cannot remove the CNI plugin", Field::string("error", removed.error().text));
        }
        probes.remove();
      }
      loop.stop();
    });
  };
  if (auto watched = signals.watch(loop, on_signal); !watched) return complain(watched.error().text);
  if (auto started = agent.start(); !started) return complain(started.error().text);
  if (options.metrics_port != 0) {
    // Pods do not wait for it.
    auto listener = listen_metrics(options.metrics_port);
    const auto listens = listener ? metrics.start(std::move(*listener)) : Result<>(std::unexpected(listener.error()));
    if (!listens) ZT_LOG(log_main, kError, "no metrics", Field::string("error", listens.error().text));
  }
  Result<> served;
  pods.start([&](const Result<>& result) {
    served = result;
    if (served && cni) served = cni->start();
    if (!served) return loop.stop();
    // The plugin comes when there is somebody whom it can ask.
    if (!options.cni_conf_folder.empty()) install.emplace(loop, install_options).start();
  });
  loop.run();
  if (!served) return complain(served.error().text);
  log::stop();
  return 0;
}

// The pods of the file that the command line asks for.
Result<PodsFile> load(const AgentOptions& options) {
  ZT_ASSIGN(const std::string text, read_pods_file(options.agent.pods_file));
  ZT_ASSIGN(PodsFile file, parse_pods(text, options.agent.pods_file, options.agent.defaults));
  if (options.uids.empty()) return file;
  const auto asked = [&](const auto& entry) {
    return std::find(options.uids.begin(), options.uids.end(), entry.uid) != options.uids.end();
  };
  for (const auto& uid : options.uids) {
    const auto is_it = [&](const auto& entry) { return entry.uid == uid; };
    if (std::none_of(file.pods.begin(), file.pods.end(), is_it) && std::none_of(file.bad.begin(), file.bad.end(), is_it)) {
      return fail(Reason::kNotFound, fmt::format("{} has no pod with uid {}", options.agent.pods_file, uid));
    }
  }
  std::erase_if(file.pods, [&](const PodSpec& spec) { return !asked(spec); });
  std::erase_if(file.bad, [&](const BadEntry& entry) { return !asked(entry); });
  return file;
}

int leave(const AgentOptions& options) {
  const auto file = load(options);
  if (!file) return complain(file.error().text);
  if (zds::connect_zds(options.agent.zds_path)) {
    return complain(fmt::format("an agent is running at {} and would enrol the pods again. Take them out of {} instead",
                                options.agent.zds_path, options.agent.pods_file));
  }
  const auto redirector = redirection::make_redirector(options.redirection);
  if (!redirector) return complain(redirector.error().text);
  const auto left = leave_pods(**redirector, file->pods, options.agent.leave_limit);
  if (left) fmt::print("{} pods left\n", file->pods.size());
  std::string failures = left ? "" : left.error().text;
  for (const auto& entry : file->bad) failures += fmt::format("{}{}", failures.empty() ? "" : "; ", entry.text);
  return failures.empty() ? 0 : complain(failures);
}

// Is there an agent that answers the CNI plugin, and is the plugin there?
int probe(const AgentOptions& options) {
  const auto answer = cni::ask_agent(options.cni_socket, "", "GET /readyz");
  if (!answer.status) return complain(fmt::format("no agent answers at {}: {}", options.cni_socket, answer.text));
  return *answer.status == 200 ? 0 : complain(fmt::format("the agent is not ready: {}", answer.text));
}

int verify(const AgentOptions& options) {
  const auto file = load(options);
  if (!file) return complain(file.error().text);
  const auto redirector = redirection::make_redirector(options.redirection);
  if (!redirector) return complain(redirector.error().text);
  bool good = true;
  const auto report = [&](std::string_view uid, std::string_view name, const redirection::Deviations& deviations) {
    fmt::print("{}\t{}\t{}\n", uid, name, deviations.empty() ? "as it should be" : "DEVIATES");
    for (const auto& deviation : deviations) fmt::print("\t{}\n", deviation);
    good &= deviations.empty();
  };
  for (const auto& spec : file->pods) {
    redirection::Deviations deviations;
    auto netns = Netns::open(spec.netns_path);
    if (netns) {
      auto found = (*redirector)->verify({std::make_shared<const Netns>(std::move(*netns)), spec.options});
      deviations = found ? std::move(*found) : redirection::Deviations{found.error().text};
    } else {
      deviations.push_back(netns.error().text);
    }
    report(spec.uid, fmt::format("{}/{}", spec.info.ns, spec.info.name), deviations);
  }
  for (const auto& entry : file->bad) report(entry.uid.empty() ? "-" : entry.uid, "-", {entry.text});
  return good ? 0 : 2;
}

int agent_main(int argc, const char* const* argv) {
  const ParsedOptions parsed = parse_agent_options(argc, argv);
  if (!parsed.options) {
    std::fputs(parsed.exit.text.c_str(), parsed.exit.code == 0 ? stdout : stderr);
    return parsed.exit.code;
  }
  const AgentOptions& options = *parsed.options;
  if (!options.log_filter.empty()) {
    if (auto set = log::set_filter(options.log_filter); !set) return complain("--log-level: " + set.error().text);
  }
  switch (options.command) {
    case AgentOptions::Command::kLeave: return leave(options);
    case AgentOptions::Command::kVerify: return verify(options);
    case AgentOptions::Command::kProbe: return probe(options);
    case AgentOptions::Command::kRun: break;
  }
  Signals signals({SIGTERM, SIGINT, SIGHUP});
  log::start(STDOUT_FILENO, options.log_format);
  return options.source == AgentOptions::Source::kKubernetes ? run_with_kubernetes(options, signals) : run(options, signals);
}

}  // namespace
}  // namespace zt::agent

int main(int argc, char** argv) { return zt::agent::agent_main(argc, argv); }
