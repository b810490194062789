#include "ztunnel/app.h"

#include <malloc.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <numeric>
#include <optional>

#include "base/event_loop.h"
#include "base/file.h"
#include "base/file_watch.h"
#include "base/linux/cgroup.h"
#include "base/linux/heap_trim.h"
#include "base/linux/netns.h"
#include "base/linux/service_manager.h"
#include "base/linux/signals.h"
#include "base/log.h"
#include "handover/meeting_place.h"
#include "hbone/tls/aead.h"
#include "identity/crl_file.h"
#include "identity/loop_scheduler.h"
#include "identity/secret_manager.h"
#include "workload_api/store/store.h"
#include "workload_api/xds/xds_client.h"
#include "workload_api/yaml/local_file.h"
#include "workload_api/yaml/yaml_source.h"
#include "zds/zds_client.h"
#include "ztunnel/admin/admin.h"
#include "ztunnel/admin/config_dump.h"
#include "ztunnel/admin/http_server.h"
#include "ztunnel/admin/live_feed.h"
#include "ztunnel/admin/liveness.h"
#include "ztunnel/admin/readiness.h"
#include "ztunnel/control_plane.h"
#include "ztunnel/explain/explain.h"
#include "ztunnel/profiles.h"
#include "ztunnel/proxy/data_plane.h"
#include "ztunnel/telemetry/metrics_registry.h"
#include "ztunnel/telemetry/runtime_metrics.h"
#include "ztunnel/telemetry/version.h"

namespace zt::ztunnel {

namespace {

log::Scope kLog("app");

constexpr std::string_view kDedicatedUid = "dedicated";
constexpr size_t kMostResolvConfBytes = 64 * 1024;
// How old the gauges of a scrape may be.
constexpr std::chrono::seconds kCollectInterval{1};
// How long a process that leaves tries to give its connections away, before it drains as if there were nobody to take them.
constexpr std::chrono::seconds kHandOverLimit{10};

// Every captured connection costs two descriptors; the soft limit is there for programs that use select().
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// A core file would hold private keys, traffic secrets and what travels through us. This forbids it whatever the limits and
// kernel.core_pattern say; whoever may trace us (CAP_SYS_PTRACE) still can.
void keep_keys_out_of_core_files() { prctl(PR_SET_DUMPABLE, 0); }

int64_t ms(Clock::duration time) { return std::chrono::duration_cast<std::chrono::milliseconds>(time).count(); }

// Another proxy may be in our network namespace, which replaces us or is replaced by us.
bool shares_ports(const Config& config) {
  return config.inpod.hand_over && config.inpod.port_reuse && config.inpod.hand_over_path.has_value();
}

WorkerSettings worker_settings(const Config& config, MemoryLimit& memory) {
  WorkerSettings settings;
  settings.memory = &memory;
  const bool shared = config.general.mode == ProxyMode::kShared;
  settings.sockets.mark = config.socket.mark.value_or(0);
  settings.sockets.mark_listeners = shared;
  settings.sockets.reuse_port = shared ? config.inpod.port_reuse : shares_ports(config);
  settings.sockets.ipv6 = config.listen.ipv6;
  settings.sockets.keepalive = config.socket.keepalive;
  settings.sockets.keepalive_time = config.socket.keepalive_time;
  settings.sockets.keepalive_interval = config.socket.keepalive_interval;
  settings.sockets.keepalive_retries = config.socket.keepalive_retries;
  settings.sockets.user_timeout = config.socket.user_timeout;
  settings.sockets.local_congestion_control = config.socket.local_congestion_control;

  settings.tunnel.stream_window_max = config.tunnel.stream_window;
  settings.tunnel.stream_window_initial = std::min(settings.tunnel.stream_window_initial, config.tunnel.stream_window);
  settings.tunnel.connection_window = config.tunnel.connection_window;
  settings.tunnel.max_frame_bytes = config.tunnel.frame_size;
  settings.tunnel.send_timeout = config.limits.send_timeout;
  settings.pool.max_streams_per_tunnel = config.tunnel.max_streams_per_tunnel;
  settings.pool.max_tunnels_per_key = config.tunnel.tunnels_per_key;
  settings.pool.idle_release = config.tunnel.idle_release;
  settings.pool.acquire_timeout = config.tunnel.handshake_timeout + config.tunnel.first_certificate_timeout + kConnectTimeout;

  settings.tls.prefer_aes128 = config.tls.prefer_aes128;
  settings.tls.pqc_only = config.tls.compliance == CompliancePolicy::kPqc;
  settings.tls.fips = config.tls.fips;
  settings.tls.trust_domain_aliases = config.tls.trust_domain_aliases;
  settings.tls.keep_peer_chain = config.tls.crl_path.has_value();
  settings.handshake_timeout = config.tunnel.handshake_timeout;
  settings.connect_answer_timeout = config.tunnel.connect_answer_timeout;
  settings.certificate_timeout = config.tunnel.first_certificate_timeout;
  settings.policy_wait = config.policy.unknown_wait;
  settings.missing_policy = config.policy.unknown == UnknownPolicy::kDeny ? MissingPolicy::kUndecided : MissingPolicy::kSkip;
  settings.response_baggage = config.tunnel.response_baggage;
  settings.localhost_app_tunnel = config.general.localhost_app_tunnel;
  settings.local_direct = config.general.local_direct;
  settings.policy_info_logging = config.policy.info_logging;
  settings.network = config.general.network;
  settings.cluster_domain = config.general.cluster_domain;
  if (!shared) settings.name_search = config.resolver.search;
  settings.preferred_ns = config.general.preferred_service_namespace;
  settings.illegal_ports = config.listen.illegal_ports;
  settings.handshakes = {.per_source = config.limits.handshakes_per_source,
                         .per_pod = config.limits.handshakes_per_pod,
                         .all = config.limits.handshakes,
                         .timeout = config.tunnel.handshake_timeout};
  settings.tunnels_per_pod = config.limits.tunnels_per_pod;
  settings.connections_per_pod = config.limits.connections_per_pod;
  settings.transparency = !config.socket.original_source   ? Transparency::kBestEffort
                          : *config.socket.original_source ? Transparency::kRequired
                                                           : Transparency::kNever;
  return settings;
}

std::optional<dns::Settings> dns_settings(const Config& config) {
  if (!config.general.dns_proxy) return std::nullopt;
  dns::Settings settings;
  settings.listen = config.listen.dns;
  settings.cluster_domain = config.general.cluster_domain;
  settings.network = config.general.network;
  settings.preferred_ns = config.general.preferred_service_namespace;
  settings.ipv6 = config.listen.ipv6;
  if (config.general.mode == ProxyMode::kDedicated) settings.search = config.resolver.search;
  settings.upstreams = config.resolver.name_servers;
  settings.forward.rounds = config.resolver.attempts;
  return settings;
}

dns::HostResolverSettings host_resolver_settings(const Config& config) {
  dns::HostResolverSettings settings;
  settings.name_servers = config.resolver.name_servers;
  settings.ipv6 = config.listen.ipv6;
  // A proxy that shares its pod's namespace would have its own queries redirected to itself.
  if (config.general.mode == ProxyMode::kDedicated) settings.mark = config.socket.mark.value_or(0);
  return settings;
}

std::optional<PodName> only_local(const Config& config) {
  return config.general.mode == ProxyMode::kDedicated ? config.general.dedicated_workload : std::nullopt;
}

// Answers as `respond` does, and keeps `slot` until the last piece of the answer was asked for.
HttpRespond holding(std::shared_ptr<void> slot, HttpRespond respond) {
  return [slot = std::move(slot), respond = std::move(respond)](HttpResponse response) {
    auto more = std::move(response.more);
    if (!more) {
      more = [body = std::exchange(response.body, {}), at = size_t{0}](std::string& out) mutable {
        constexpr size_t kPieceBytes = 64 << 10;
        out.append(body, at, kPieceBytes);
        at += std::min(kPieceBytes, body.size() - at);
        return at < body.size();
      };
    }
    response.more = [more = std::move(more), held = slot](std::string& out) mutable {
      if (more(out)) return true;
      held.reset();
      return false;
    };
    respond(std::move(response));
  };
}

std::optional<identity::SpiffeId> spiffe(std::string_view text) {
  auto id = identity::SpiffeId::parse(text);
  if (!id) return std::nullopt;
  return std::move(*id);
}

}  // namespace

// Declared in the order in which they are made; destroyed in reverse.
struct App::Impl {
  explicit Impl(Config configuration)
      : shared_config(std::make_shared<const Config>(std::move(configuration))),
        config(*shared_config),
        container(CgroupMemory::find()),
        memory(memory_budget(config.tunnel, container.limit())),
        settings(worker_settings(config, memory)),
        dns(dns_settings(config)),
        signals({SIGTERM, SIGINT}),
        metrics(config.general.worker_threads,
                {.series = config.telemetry.series_limit,
                 .series_per_identity = config.telemetry.series_per_identity,
                 .labels = config.telemetry.labels,
                 .idle = config.telemetry.series_idle},
                config.telemetry.istio_version),
        store({.node_name = config.general.mode == ProxyMode::kShared ? config.general.node_name : std::nullopt,
               .only_local = only_local(config)}),
        scheduler(loop),
        collect_timer(loop) {}

  const std::shared_ptr<const Config> shared_config;
  const Config& config;
  const CgroupMemory container;
  MemoryLimit memory;
  const WorkerSettings settings;
  const std::optional<dns::Settings> dns;  // none: queries are not answered
  Signals signals;
  EventLoop loop;
  Readiness readiness;
  Metrics metrics;
  std::unique_ptr<RuntimeMetrics> runtime_metrics;
  workload_api::Store store;
  identity::LoopScheduler scheduler;
  std::unique_ptr<identity::CaClient> ca;
  std::unique_ptr<identity::SecretManager> secrets;
  std::unique_ptr<dns::HostResolver> hosts;
  ResolverConfig resolver;  // as it is in force
  std::unique_ptr<FileWatch> resolv_conf;
  std::unique_ptr<DataPlane> data_plane;
  std::optional<DataPlane::BoundPod> dedicated;  // until it is served
  std::unique_ptr<identity::CrlFile> crl;
  workload_api::Store::Subscription subscription;
  std::unique_ptr<workload_api::LocalFile> local_file;
  std::unique_ptr<workload_api::XdsClient> xds;
  Readiness::Hold state_hold;
  std::unique_ptr<zds::ZdsClient> zds;
  Readiness::Hold agent_hold;
  std::unique_ptr<handover::MeetingPlace> meeting_place;  // once we can serve
  // Dumps and lists of connections that are not sent to the end yet. An answer may outlive us.
  const std::shared_ptr<std::atomic<size_t>> answering = std::make_shared<std::atomic<size_t>>(0);
  // Before the thread of dumps: the last of an answer, and with it a watcher that says that it leaves, may go there.
  std::unique_ptr<LiveFeed> live;
  BackgroundThread dumps{"zt-dump"};
  Liveness liveness{[this](std::chrono::milliseconds time, std::function<void()> fn) { http->after(time, std::move(fn)); }};
  Profiles profiles{dumps,
                    [this](std::chrono::milliseconds time, std::function<void()> fn) { http->after(time, std::move(fn)); }};
  std::unique_ptr<HttpServer> http;
  Timer collect_timer;
  HeapTrim heap;
  bool draining = false;
  bool told_how = false;                // to run without a control plane
  std::optional<HandOverCounts> given;  // to the next process, so far
  Result<> outcome;                     // of run()

  Result<> start();
  Result<> start_certificates();
  void follow_resolv_conf();
  Result<> start_local_state();
  Result<> start_control_plane();
  void on_local_file(Result<workload_api::LocalContent> content);
  Result<> start_servers();
  void on_state_ready();
  Result<> start_proxy();
  void replace_local(workload_api::LocalContent content);
  void on_changes(const workload_api::SnapshotPtr& snapshot, const workload_api::Changes& changes);
  void answer_one_of_few(const HttpRespond& respond, void (Impl::*answer)(const HttpRespond&));
  void dump(const HttpRespond& respond);
  void tell_connections(const HttpRespond& respond);
  [[nodiscard]] std::map<std::string, PodStatus> pod_states(std::map<std::string, PodConnections> connections) const;
  void explain(std::string source, std::string destination, HttpRespond respond);
  void on_signal(int number);
  void drain(std::string_view why);
  void shut_down(Clock::duration deadline);
  void serving();
  void wait_for_predecessor();
  [[nodiscard]] std::string successor_path() const;
  void collect();
  void say_how_without_control_plane();
  void follow_container();
  void give_memory_back(size_t load);
};

Result<std::unique_ptr<App>> App::start(Config config) {
  auto impl = std::make_unique<Impl>(std::move(config));
  ZT_TRY(impl->start());
  return std::unique_ptr<App>(new App(std::move(impl)));
}

App::App(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
App::~App() = default;
Result<> App::run() {
  impl_->liveness.watch("control", [this](std::function<void()> fn) { impl_->loop.post(std::move(fn)); });
  impl_->loop.run();
  return impl_->outcome;
}

Result<> App::Impl::start() {
  raise_descriptor_limit();
  keep_keys_out_of_core_files();
  ZT_TRY(signals.watch(loop, [this](int number) { on_signal(number); }));
  ZT_ASSIGN(const auto backend, hbone::select_aead_backend(config.tls.aead, config.tls.fips));
  ZT_TRY(hbone::check_tls_options(settings.tls));
  if (settings.tls.fips && !hbone::fips_module_active()) {
    ZT_LOG(kLog, kWarn,
           "FIPS was asked for, but OpenSSL's validated module is not active: only the choice of algorithms is restricted. "
           "openssl.cnf has to load the fips provider and set default_properties = fips=yes");
  }
  ZT_LOG(kLog, kInfo, "record layer ready", Field::string("aead", hbone::aead_backend_name(backend)));
  runtime_metrics = std::make_unique<RuntimeMetrics>(metrics, std::string(hbone::aead_backend_name(backend)));
  if (config.general.mode == ProxyMode::kShared) ZT_TRY(check_netns_privileges(config.socket.mark.value_or(0)));
  auto starting = readiness.hold("proxy");
  state_hold = readiness.hold("state manager");
  if (config.general.mode == ProxyMode::kShared) agent_hold = readiness.hold("workload proxy manager");
  ZT_TRY(start_servers());
  ZT_TRY(start_certificates());
  // A dedicated proxy binds before there is any state, as the peer does (§12.1): a taken port is told at once, and who connects
  // early waits in the queue for the state instead of being refused.
  // Unless somebody is served there already: we would get connections that a proxy which is ready could serve at once.
  if (config.general.mode == ProxyMode::kDedicated && !(shares_ports(config) && data_plane->ports_are_taken())) {
    ZT_ASSIGN(dedicated, data_plane->bind_dedicated(std::string(kDedicatedUid), *config.general.dedicated_workload));
  }
  ZT_TRY(start_local_state());
  starting.done();
  collect();
  return {};
}

Result<> App::Impl::start_certificates() {
  ZT_ASSIGN(ca, make_ca_client(config, metrics));
  secrets = std::make_unique<identity::SecretManager>(*ca, scheduler);
  LookupRequest lookups;
  if (config.control.xds_address && config.control.xds_on_demand) {
    lookups = [this](std::string key, std::string asker, workload_api::LookupDone done) {
      loop.post([this, key = std::move(key), asker = std::move(asker), done = std::move(done)]() mutable {
        xds->look_up(key, asker, std::move(done));
      });
    };
  }
  hosts = std::make_unique<dns::HostResolver>(loop, host_resolver_settings(config));
  ZT_TRY(hosts->start());
  data_plane = std::make_unique<DataPlane>(
      loop, settings, config.listen, config.general.worker_threads, metrics,
      [this](const identity::SpiffeId& id, identity::SecretManager::Waiter done) {
        loop.post([this, id, done = std::move(done)]() mutable { secrets->get(id, std::move(done)); });
      },
      std::move(lookups), dns ? &*dns : nullptr,
      [this](std::string host, dns::NamedBy by, dns::HostDone done) {
        loop.post(
            [this, host = std::move(host), by, done = std::move(done)]() mutable { hosts->resolve(host, std::move(done), by); });
      });
  resolver = config.resolver;
  resolv_conf = std::make_unique<FileWatch>(loop, kResolvConf, [this] { follow_resolv_conf(); });
  (void)resolv_conf->start();  // a directory that cannot be watched is looked at
  follow_resolv_conf();        // an edit since the configuration was read
  for (size_t i = 0; i < data_plane->workers().size(); ++i) {
    liveness.watch("worker " + std::to_string(i),
                   [&worker = *data_plane->workers()[i]](std::function<void()> fn) { worker.post(std::move(fn)); });
  }
  secrets->subscribe([this](const identity::SpiffeId& id, const identity::Credentials& credentials) {
    data_plane->certificate_changed(id, credentials);
  });
  if (config.tls.crl_path) {
    crl = std::make_unique<identity::CrlFile>(loop, *config.tls.crl_path, [this](const identity::RevocationListsPtr& lists) {
      data_plane->set_revocations(lists);
      secrets->set_revocations(lists);
    });
    crl->start();
    // Always 0, and shown for whoever watches the peer's. That one counts connections which its index of chains could not take
    // in; here each tunnel keeps the chain it was verified with, and none is let in without one, so new lists reach them all.
    for (const char* reporter : {"source", "destination"}) metrics.crl_untracked.get({reporter});
  }
  return {};
}

// Who changes the node's name servers, or, in dedicated mode, the pod's, need not start us anew.
void App::Impl::follow_resolv_conf() {
  const auto text = read_file(kResolvConf, kMostResolvConfBytes);
  ResolverConfig now = parse_resolv_conf(text.value_or(std::string()));
  if (now.name_servers == resolver.name_servers && now.search == resolver.search) return;
  if (now.name_servers.empty()) {
    ZT_LOG(kLog, kWarn, "no name server is named any more, those of before are asked", Field::string("file", kResolvConf),
           Field::string("error", text ? "" : text.error().text));
    return;
  }
  std::string servers;
  for (const SocketAddress& server : now.name_servers) servers += (servers.empty() ? "" : " ") + server.to_string();
  ZT_LOG(kLog, kInfo, "name servers read anew", Field::string("file", kResolvConf), Field::string("servers", servers));
  resolver = std::move(now);
  hosts->set_name_servers(resolver.name_servers);
  data_plane->set_resolver(resolver);
}

Result<> App::Impl::start_local_state() {
  subscription = store.subscribe([this](const auto& snapshot, const auto& changes) { on_changes(snapshot, changes); });
  if (config.control.local_xds_path) {
    local_file = std::make_unique<workload_api::LocalFile>(
        loop, *config.control.local_xds_path, [this](workload_api::LocalContent content) { replace_local(std::move(content)); },
        [this] { return store.snapshot(); });
    local_file->start([this](Result<workload_api::LocalContent> content) { on_local_file(std::move(content)); });
    return {};
  }
  if (config.control.local_xds) {
    ZT_ASSIGN(auto content, workload_api::parse_local_config(*config.control.local_xds, "LOCAL_XDS"));
    replace_local(std::move(content));
  }
  return start_control_plane();
}

// The file for the first time: one that is wrong ends the process.
void App::Impl::on_local_file(Result<workload_api::LocalContent> content) {
  if (draining) return;
  if (content) {
    replace_local(std::move(*content));
    outcome = start_control_plane();
  } else {
    outcome = std::unexpected(std::move(content).error());
  }
  if (!outcome) loop.stop();
}

// Nothing is accepted before the state is complete: traffic would be judged without the policies that are still on their way
// (contract §0.2).
Result<> App::Impl::start_control_plane() {
  ZT_ASSIGN(xds, make_xds_client(loop, store, config));
  if (xds) {
    xds->start([this] { on_state_ready(); });
    return {};
  }
  state_hold.done();
  return start_proxy();
}

void App::Impl::on_state_ready() {
  ZT_LOG(kLog, kInfo, "the control plane has sent its state");
  state_hold.done();
  if (draining) return;
  outcome = start_proxy();
  if (!outcome) loop.stop();
}

void App::Impl::replace_local(workload_api::LocalContent content) {
  for (const auto& rejected : store.replace_local(std::move(content))) {
    ZT_LOG(kLog, kError, "resource of the local configuration refused", Field::string("name", rejected.name),
           Field::string("error", rejected.why));
  }
}

void App::Impl::on_changes(const workload_api::SnapshotPtr& snapshot, const workload_api::Changes& changes) {
  data_plane->publish(snapshot);
  for (const auto& identity : changes.identities_needed) {
    if (const auto id = spiffe(identity.view())) secrets->prefetch(*id);
  }
  for (const auto& identity : changes.identities_forgotten) {
    if (const auto id = spiffe(identity.view())) secrets->forget(*id);
  }
}

Result<> App::Impl::start_proxy() {
  if (config.general.mode == ProxyMode::kDedicated) {
    if (!dedicated) {
      ZT_ASSIGN(dedicated, data_plane->bind_dedicated(std::string(kDedicatedUid), *config.general.dedicated_workload));
    }
    data_plane->serve(std::move(*dedicated));
    dedicated.reset();
    serving();
    return {};
  }
  if (config.general.own_pod) ZT_TRY(data_plane->start_self(*config.general.own_pod));
  zds = std::make_unique<zds::ZdsClient>(loop, *data_plane,
                                         zds::ZdsClient::Options{.path = config.inpod.uds, .on_ready = [this](bool ready) {
                                                                   if (ready) {
                                                                     serving();
                                                                     agent_hold.done();
                                                                   } else {
                                                                     agent_hold = readiness.hold("workload proxy manager");
                                                                   }
                                                                 }});
  return zds->start();
}

Result<> App::Impl::start_servers() {
  live = std::make_unique<LiveFeed>(
      metrics, *runtime_metrics,
      LiveFeed::Node{config.general.node_name.value_or(""), build_info(config.telemetry.istio_version).version});
  http = std::make_unique<HttpServer>(HttpLimits{}, shares_ports(config));
  const bool ipv6 = config.listen.ipv6;
  // Readiness first: whoever waits for us gets an answer while we start.
  ZT_TRY(http->listen("readiness", config.listen.readiness, ipv6, readiness_handler(readiness, liveness)));
  ZT_TRY(http->listen(
      "admin", config.listen.admin, ipv6,
      admin_handler({.config_dump = [this](const HttpRespond& respond) { answer_one_of_few(respond, &Impl::dump); },
                     .connections = [this](const HttpRespond& respond) { answer_one_of_few(respond, &Impl::tell_connections); },
                     .shutdown = [this] { loop.post([this] { drain("/quitquitquit"); }); },
                     .live = [this] { return live->open(); },
                     .cpu_profile = [this](std::chrono::seconds duration, int frequency,
                                           const HttpRespond& respond) { profiles.cpu(duration, frequency, respond); },
                     .explain =
                         [this](std::string source, std::string destination, HttpRespond respond) {
                           loop.post([this, source = std::move(source), destination = std::move(destination),
                                      respond = std::move(respond)]() mutable {
                             explain(std::move(source), std::move(destination), std::move(respond));
                           });
                         }})));
  ZT_TRY(http->listen("stats", config.listen.stats, ipv6, stats_handler(metrics)));
  return {};
}

// The HTTP server's thread. Each such answer holds all connections of the node, or their text, until the client has the last of it.
void App::Impl::answer_one_of_few(const HttpRespond& respond, void (Impl::*answer)(const HttpRespond&)) {
  constexpr size_t kMostAnswering = 4;
  if (answering->load() >= kMostAnswering) return respond(HttpResponse::text(503, "busy with what was asked before\n"));
  ++*answering;
  std::shared_ptr<void> slot(nullptr, [answering = answering](void*) { --*answering; });
  loop.post([this, answer, held = holding(std::move(slot), respond)] { (this->*answer)(held); });
}

void App::Impl::dump(const HttpRespond& respond) {
  if (!data_plane) return respond(HttpResponse::text(503, "starting\n"));
  data_plane->collect_connections([this, respond](std::map<std::string, PodConnections> connections) {
    DumpInputs inputs{.snapshot = store.snapshot(),
                      .certificates = secrets->snapshot(),
                      .workload_state = {},
                      .config = shared_config,
                      .version = build_info(config.telemetry.istio_version)};
    if (config.general.mode == ProxyMode::kShared) inputs.workload_state = pod_states(std::move(connections));
    answer_config_dump(dumps, std::move(inputs), respond);
  });
}

std::map<std::string, PodStatus> App::Impl::pod_states(std::map<std::string, PodConnections> connections) const {
  std::map<std::string, PodStatus> pods;
  if (!zds) return pods;
  for (const auto& pod : zds->session().pods()) {
    const bool up = pod.state == zds::PodState::kUp;
    auto& status = pods[pod.uid];
    status.state = up ? "Up" : "Pending";
    status.info = pod.info;
    if (up) status.connections = std::move(connections[pod.uid]);
  }
  return pods;
}

void App::Impl::tell_connections(const HttpRespond& respond) {
  if (!data_plane) return respond(HttpResponse::text(503, "starting\n"));
  data_plane->collect_connections([this, respond](std::map<std::string, PodConnections> connections) {
    data_plane->collect_ended([this, respond, pods = pod_states(std::move(connections))](std::vector<EndedLine> ended) mutable {
      // A hundred thousand connections are text of its own second.
      dumps.post([respond, inputs = ConnectionsInputs{.pods = std::move(pods), .ended = std::move(ended)}] {
        respond(connections_response(inputs));
      });
    });
  });
}

// `ztunnel explain` of what is known now. On the thread of dumps: it may look through all workloads.
void App::Impl::explain(std::string source, std::string destination, HttpRespond respond) {
  constexpr size_t kMostQueued = 16;
  if (dumps.queued() >= kMostQueued) return respond(HttpResponse::text(503, "busy with what was asked before\n"));
  KnownState state;
  state.snapshot = store.snapshot();
  state.origin = "this proxy";
  state.network = config.general.network;
  state.illegal_ports = config.listen.illegal_ports;
  dumps.post([state = std::move(state), source = std::move(source), destination = std::move(destination),
              domain = config.general.cluster_domain, respond = std::move(respond)] {
    const auto question = make_question(state, source, destination, domain);
    if (!question) return respond(HttpResponse::text(400, question.error().text + "\n"));
    respond(HttpResponse::text(200, explanation_text(state, *question, ztunnel::explain(state, *question))));
  });
}

// A container's limit may change while it runs (in-place resize).
void App::Impl::follow_container() {
  const uint64_t budget = memory_budget(config.tunnel, container.limit());
  if (budget == memory.limit()) return;
  ZT_LOG(kLog, kInfo, "the memory budget follows the container's limit", Field::count("bytes", static_cast<int64_t>(budget)));
  memory.set(budget);
}

void App::Impl::give_memory_back(size_t load) {
  if (!heap.due(resident_bytes(), load)) return;
  ::malloc_trim(0);
  heap.trimmed(resident_bytes());
}

void App::Impl::collect() {
  store.collect();
  metrics.denial_log.flush(Clock::now());
  follow_container();
  RuntimeSample sample;
  if (zds) {
    for (const auto& pod : zds->session().pods()) sample.pending_proxies += pod.state == zds::PodState::kPending ? 1 : 0;
    sample.agent_connected = zds->connected();
  }
  sample.active_proxies = data_plane->pod_count();
  sample.proxies_started = data_plane->pods_started();
  sample.proxies_stopped = data_plane->pods_stopped();
  sample.mesh = store.snapshot();
  sample.workloads = sample.mesh->workload_count();
  sample.services = sample.mesh->service_count();
  sample.policies = sample.mesh->policy_count();
  sample.certificates = secrets->stats();
  if (xds) {
    sample.xds = xds->stats();
    say_how_without_control_plane();
  }
  for (const auto& worker : data_plane->workers()) {
    sample.worker_connections.push_back(worker->connections.load(std::memory_order_relaxed));
    sample.client_tunnels += worker->io().client_tunnels.load(std::memory_order_relaxed);
    sample.server_tunnels += worker->io().server_tunnels.load(std::memory_order_relaxed);
    sample.memory_held += worker->io().budget.used();
    sample.longest_turns.push_back(std::chrono::duration<double>(worker->loop().longest_turn()).count());
  }
  sample.pods = data_plane->pod_use();
  sample.memory_promised = memory.promised();
  sample.memory_limit = memory.limit();
  sample.memory_cuts = memory.cuts();
  sample.handshakes = data_plane->handshakes_in_flight();
  if (given) sample.handover_stop = std::chrono::duration<double>(given->longest_stop).count();
  give_memory_back(std::accumulate(sample.worker_connections.begin(), sample.worker_connections.end(), size_t{0}) +
                   sample.client_tunnels + sample.server_tunnels + sample.handshakes);
  runtime_metrics->publish(std::move(sample));
  collect_timer.start_after(kCollectInterval, [this] { collect(); });
}

// Once, to whoever has typed `ztunnel` and sees it fail for the first time.
void App::Impl::say_how_without_control_plane() {
  const auto& stats = xds->stats();
  if (told_how || stats.last_ack) return;
  told_how = std::accumulate(stats.terminations.begin(), stats.terminations.end(), uint64_t{0}) > 0;
  if (!told_how) return;
  ZT_LOG(
      kLog, kWarn,
      "the control plane cannot be reached; it is tried again and again. To run without one, name a file and no address: "
      "XDS_ADDRESS= LOCAL_XDS_PATH=mesh.yaml EMBEDDED_CA_DIR=ca ztunnel. `ztunnel help` lists all settings, `ztunnel settings` "
      "says which of them count here",
      Field::string("address", config.control.xds_address.value_or("")));
}

void App::Impl::on_signal(int number) {
  if (draining && number == SIGINT) std::_Exit(0);  // contract §12.3: a second one does not wait
  drain(number == SIGTERM ? "SIGTERM" : "SIGINT");
}

void App::Impl::drain(std::string_view why) {
  if (std::exchange(draining, true)) return;
  ZT_LOG(kLog, kInfo, "shutting down", Field::string("reason", why));
  tell_service_manager("STOPPING=1");
  if (zds) zds->shutdown();
  dedicated.reset();
  // Whoever is at the meeting place by now is newer, and ready: nobody else is given anything.
  const bool succeeded = meeting_place != nullptr && !meeting_place->is_ours();
  meeting_place.reset();
  if (!succeeded) return shut_down(config.general.drain_deadline);
  const auto begun = Clock::now();
  const auto say = [this, begun](std::string_view what, const HandOverCounts& counts) {
    given = counts;
    std::string causes;
    for (const auto& [cause, count] : counts.causes)
      causes += (causes.empty() ? "" : ", ") + cause + ": " + std::to_string(count);
    ZT_LOG(kLog, kInfo, what, Field::count("connections", static_cast<int64_t>(counts.connections)),
           Field::count("units", static_cast<int64_t>(counts.units)), Field::count("left", static_cast<int64_t>(counts.left)),
           Field::count("refused", static_cast<int64_t>(counts.refused)),
           Field::count("longest_stop_ms", ms(counts.longest_stop)), Field::count("ms", ms(Clock::now() - begun)),
           Field::string("causes", causes), Field::string("refusal", counts.refusal), Field::string("error", counts.end));
  };
  const Clock::duration deadline = config.general.drain_deadline;
  const auto started = data_plane->hand_over(
      successor_path(), std::min<Clock::duration>(kHandOverLimit, deadline / 2),
      [say](const HandOverCounts& counts) { say("handing over", counts); },
      [this, say, begun, deadline](const HandOverCounts& counts) {
        say("handed over", counts);
        for (const auto& [cause, count] : counts.causes) metrics.handover_stayed.get({cause}).add(count);
        shut_down(std::max(deadline - (Clock::now() - begun), Clock::duration::zero()));
      });
  if (started) return;
  ZT_LOG(kLog, kWarn, "nobody takes the connections over", Field::string("cause", started.error().text));
  shut_down(deadline);
}

std::string App::Impl::successor_path() const { return config.inpod.hand_over_path.value_or(config.inpod.uds + ".successor"); }

// Before anybody is told that we are ready: the other may be ended on that word.
void App::Impl::serving() {
  wait_for_predecessor();
  tell_service_manager("READY=1");
}

// A process that cannot have the place serves all the same, and drains when it leaves.
void App::Impl::wait_for_predecessor() {
  if (!config.inpod.hand_over || !settings.sockets.reuse_port || meeting_place != nullptr || draining) return;
  data_plane->identify({.build = build_info(config.telemetry.istio_version).version,
                        .trust_domain = config.general.trust_domain,
                        .node = config.general.node_name.value_or("")});
  auto taken = handover::MeetingPlace::take(loop, successor_path(),
                                            [this](UniqueFd visitor) { data_plane->take_over(std::move(visitor)); });
  if (!taken) {
    ZT_LOG(kLog, kWarn, "connections will not be handed over", Field::string("cause", taken.error().text));
    return;
  }
  meeting_place = std::move(*taken);
}

void App::Impl::shut_down(Clock::duration deadline) {
  data_plane->shutdown(deadline, [this] {
    http->drain();
    if (given) {
      ZT_LOG(kLog, kInfo, "shutdown complete", Field::count("moved", static_cast<int64_t>(given->connections)),
             Field::count("drained", static_cast<int64_t>(given->left - std::min(given->left, data_plane->cut()))),
             Field::count("cut", static_cast<int64_t>(data_plane->cut())),
             Field::count("longest_stop_ms", ms(given->longest_stop)));
    } else {
      ZT_LOG(kLog, kInfo, "shutdown complete");
    }
    loop.stop();
  });
}

}  // namespace zt::ztunnel
