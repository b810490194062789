#include "agent/cni_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <utility>

#include "base/json_writer.h"
#include "base/linux/unix_socket.h"
#include "base/log.h"
#include "base/text.h"
#include "kubernetes/objects.h"
#include "mesh/reason.h"

namespace zt::agent {

namespace {

namespace json = boost::json;

log::Scope log_cni("cni");

constexpr size_t kMaxIps = 64;
constexpr unsigned kBadRequest = 400, kServerError = 500, kUnavailable = 503;

Result<std::string> text_at(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_string() || value->get_string().empty()) {
    return fail(Reason::kInvalidInput, fmt::format("{} is missing, or no text", key));
  }
  return std::string(value->get_string().data(), value->get_string().size());
}

Result<> check_name(std::string_view key, std::string_view name) {
  const auto allowed = [](char c) { return is_alnum(c) || c == '-' || c == '.'; };
  if (name.size() <= 253 && std::ranges::all_of(name, allowed)) return {};
  return fail(Reason::kInvalidInput, fmt::format("{}: '{}' is no name", key, name.substr(0, 64)));
}

}  // namespace

Result<CniRequest> parse_cni_request(std::string_view text) {
  json::parse_options options;
  options.max_depth = 16;
  boost::system::error_code error;
  const json::value root = json::parse({text.data(), text.size()}, error, {}, options);
  if (error || !root.is_object()) return fail(Reason::kInvalidInput, "the body is no JSON object");
  CniRequest request;
  ZT_ASSIGN(request.netns, text_at(root.get_object(), "Netns"));
  ZT_ASSIGN(request.pod, text_at(root.get_object(), "PodName"));
  ZT_ASSIGN(request.ns, text_at(root.get_object(), "PodNamespace"));
  ZT_TRY(check_name("PodName", request.pod));
  ZT_TRY(check_name("PodNamespace", request.ns));
  if (const json::value* uid = root.get_object().if_contains("PodUID")) {
    if (!uid->is_string() || uid->get_string().size() > kubernetes::kMaxUid)
      return fail(Reason::kInvalidInput, "PodUID is no uid");
    request.uid = std::string(uid->get_string().data(), uid->get_string().size());
  }
  if (request.netns.front() != '/' || request.netns.find("/../") != std::string::npos || request.netns.size() > 4000) {
    return fail(Reason::kInvalidInput, fmt::format("Netns: '{}' is no absolute path", request.netns.substr(0, 64)));
  }
  const json::value* ips = root.get_object().if_contains("IPs");
  if (ips == nullptr || ips->is_null()) return request;
  if (!ips->is_array() || ips->get_array().size() > kMaxIps) return fail(Reason::kInvalidInput, "IPs is no list, or a long one");
  for (const auto& entry : ips->get_array()) {
    const json::value* address = entry.is_object() ? entry.get_object().if_contains("Address") : nullptr;
    if (address == nullptr || !address->is_object()) return fail(Reason::kInvalidInput, "IPs: an entry without Address");
    ZT_ASSIGN(std::string ip, text_at(address->get_object(), "IP"));
    request.ips.push_back(std::move(ip));
  }
  return request;
}

CniServer::CniServer(EventLoop& loop, std::string path, Ready ready, Handler handler)
    : path_(std::move(path)),
      ready_(std::move(ready)),
      handler_(std::move(handler)),
      server_(loop, "the CNI plugin", [this](const HttpRequest& request, HttpServer::Reply reply) {
        asked(request, [answers = answers_, reply = std::move(reply)](HttpAnswer answer) {
          ++(*answers)[answer.status];
          reply(std::move(answer));
        });
      }) {}

Result<> CniServer::start() {
  ZT_ASSIGN(UniqueFd listener, listen_unix(path_, SOCK_STREAM, "CNI socket"));
  ZT_LOG(log_cni, kInfo, "listening for the CNI plugin", Field::string("path", path_));
  return server_.start(std::move(listener));
}

void CniServer::asked(const HttpRequest& request, HttpServer::Reply reply) {
  if (request.method == "GET" && request.target == "/readyz") {
    const auto ready = ready_();
    return reply(ready ? HttpAnswer{} : HttpAnswer{kUnavailable, ready.error().text});
  }
  if (request.method != "POST" || request.target != "/cmdadd") return reply({kBadRequest, "only POST /cmdadd is known"});
  auto call = parse_cni_request(request.body);
  if (!call) return reply({kBadRequest, call.error().text});
  const std::string name = call->ns + "/" + call->pod;
  ZT_LOG(log_cni, kDebug, "the plugin asks for a pod", Field::string("name", name));
  handler_(std::move(*call), [reply = std::move(reply), name](const Result<>& result) {
    if (result) {
      ZT_LOG(log_cni, kDebug, "the plugin may go on", Field::string("name", name));
      return reply({});
    }
    ZT_LOG(log_cni, kError, "the pod may not start", Field::string("name", name), Field::string("error", result.error().text));
    reply({kServerError, result.error().text});
  });
}

}  // namespace zt::agent
