#include "base/grpc/endpoint.h"

#include <fmt/format.h>
#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "base/address.h"
#include "base/grpc/callback_queue.h"
#include "base/grpc/host_verifier.h"
#include "base/host_port.h"
#include "base/log.h"

namespace zt::rpc {
namespace {

log::Scope grpc_log{"grpc"};

constexpr std::string_view kScheme = "https://";

bool legal_name(std::string_view name) {
  return !name.empty() && !name.starts_with("grpc-") && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}
bool legal_value(std::string_view value) {
  return std::ranges::all_of(value, [](char c) { return c >= 0x20 && c < 0x7f; });
}

// What a connection needs besides the message that it receives.
constexpr size_t kQuotaBase = 8u << 20;

// gRPC compares a message with its limit only once it has all of it, and a message may claim 4 GiB. The quota
// makes it drop the connection before that. All channels with the same limit share one, which is never
// destroyed: with a quota that goes before its connections, gRPC 1.51 leaks them.
const grpc::ResourceQuota& quota_for(size_t message_bytes) {
  static std::mutex mutex;
  static auto& quotas = *new std::map<size_t, grpc::ResourceQuota>;
  const std::lock_guard lock(mutex);
  const auto [place, made] = quotas.try_emplace(message_bytes, "responses");
  if (made) place->second.Resize(message_bytes + message_bytes / 2 + kQuotaBase);
  return place->second;
}

int milliseconds(std::chrono::milliseconds time) { return static_cast<int>(time.count()); }

void log_line(gpr_log_func_args* args) {
  // gRPC ends the process after this one, before our log's writer would get to it.
  if (std::string_view(args->message).starts_with("assertion failed"))
    std::fprintf(stderr, "gRPC: %s:%d: %s\n", args->file, args->line, args->message);
  ZT_LOG(grpc_log, kDebug, args->message, Field::bare("file", args->file), Field::count("line", args->line));
}

}  // namespace

Result<Endpoint> Endpoint::make(EndpointOptions options) {
  Endpoint endpoint(std::move(options));
  const std::string& address = endpoint.options_.address;
  const auto bad_address = [&] { return fail(Fault::kInvalidInput, address + " is not https://host:port"); };
  if (!address.starts_with(kScheme)) return bad_address();
  endpoint.authority_ = address.substr(kScheme.size());
  const auto parts = split_host_port(endpoint.authority_);
  if (!parts) return bad_address();
  endpoint.host_ = parts->host;

  for (const HeaderList* headers : {&endpoint.options_.credentials.with_token, &endpoint.options_.headers})
    for (const auto& [name, value] : *headers)
      if (!legal_name(name) || !legal_value(value))
        return fail(Fault::kInvalidInput, fmt::format("the extra header {} cannot be sent", name));
  return endpoint;
}

bool Endpoint::by_name() const { return !IpAddress::parse(host_); }

std::shared_ptr<grpc::Channel> Endpoint::open_channel(const std::string& roots_pem) const {
  adopt_grpc_log();
  keep_callback_queue();
  std::vector<std::string> names{host_};
  if (options_.alt_hostname) names.push_back(*options_.alt_hostname);
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(std::make_shared<grpc::experimental::StaticDataCertificateProvider>(roots_pem));
  tls.watch_root_certs();
  tls.set_verify_server_certs(true);
  tls.set_certificate_verifier(make_host_verifier(std::move(names)));
  tls.set_check_call_host(false);  // the verifier has checked it, with the alternative name

  grpc::ChannelArguments arguments;
  arguments.SetResourceQuota(quota_for(options_.max_message_bytes));
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds(kKeepaliveInterval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, milliseconds(kKeepaliveTimeout));
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);                        // no limit: else they stop after two
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, milliseconds(kConnectLimit));  // that is its meaning
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, milliseconds(kReconnectPauseMin));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, milliseconds(kReconnectPauseMax));
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
                   1);  // else an older channel's connection would be shared
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);  // no TXT queries
  return grpc::CreateCustomChannel("dns:///" + authority_, grpc::experimental::TlsCredentials(tls), arguments);
}

void use_system_resolver() { ::setenv("GRPC_DNS_RESOLVER", "native", 0); }

void adopt_grpc_log() {
  static std::once_flag once;
  std::call_once(once, [] { gpr_set_log_function(log_line); });
}

std::string status_name(int code) {
  static constexpr std::array<std::string_view, 17> names{
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  const bool known = code >= 0 && static_cast<size_t>(code) < names.size();
  return known ? std::string(names[static_cast<size_t>(code)]) : fmt::format("CODE_{}", code);
}

}  // namespace zt::rpc
