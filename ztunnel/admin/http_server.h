#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "ztunnel/config/config.h"

// A small HTTP/1.1 server for people and probes: admin, metrics, readiness. It has one thread of its own, so
// neither a slow client nor a large answer holds up the data path or the control thread. Limits as contract
// §10.6.
namespace zt::ztunnel {

struct HttpRequest {
  std::string method;
  std::string path;   // without the query
  std::string query;  // as it came, without the '?'
  std::string accept;
  std::string accept_encoding;
  std::string host, origin, fetch_site;  // Host, Origin, Sec-Fetch-Site: whose page a browser sends it for
  std::string user_agent;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // "" = no such header
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  // For large answers, instead of `body`: appends the next piece (some 64 KiB) and returns whether there is
  // more. Called on the server's thread, between writes. What it throws ends the connection, so that nobody takes the part for the whole.
  std::move_only_function<bool(std::string& out)> more;
  // Not 0: an answer without end, in which `more` is asked again after this time when it had nothing. Ends when the server drains.
  std::chrono::milliseconds poll{0};

  static HttpResponse text(int status, std::string body) {
    HttpResponse response;
    response.status = status;
    response.content_type = "text/plain";
    response.body = std::move(body);
    return response;
  }
  static HttpResponse empty(int status) {
    HttpResponse response;
    response.status = status;
    return response;
  }
};

// Answers a request: once, from any thread. If every copy goes without an answer, the client gets a 500.
using HttpRespond = std::function<void(HttpResponse response)>;
// Called on the server's thread; must not block. `request` lives for the call only.
using HttpHandler = std::function<void(const HttpRequest& request, HttpRespond respond)>;

struct HttpLimits {
  std::chrono::milliseconds header_timeout{2000};  // also ends an idle connection
  std::chrono::milliseconds body_timeout{10'000};
  std::chrono::milliseconds write_timeout{60'000};  // for one piece of an answer
  std::chrono::milliseconds close_grace{500};
  size_t header_bytes = 8192;
  size_t body_bytes = 65536;
  // Of each server (a call of listen()), and of each source address to it. When one more comes, the connection that has rested
  // longest goes: of this source if it has its share, else of the source that has most. Whoever holds connections open to
  // one port keeps neither others from it nor anybody from another.
  size_t connections = 256;
  size_t connections_per_source = 32;
};

class HttpServer {
 public:
  // `shares_ports`: another process of ours in this network namespace may listen on the same ones, for as long as one replaces the other.
  explicit HttpServer(HttpLimits limits = {}, bool shares_ports = false);
  // Drains for at most close_grace, then cuts what is left.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds and serves at once. `component` names the listener in the log. A wildcard address of IPv6 takes
  // IPv4 too; LocalhostPort takes 127.0.0.1 and, if `ipv6` and the node has it, ::1. Port 0 (tests) takes any
  // free one. The error says which address and why. Returns the bound addresses. Owner's thread.
  Result<std::vector<SocketAddress>> listen(std::string component, const ListenAddress& address, bool ipv6, HttpHandler handler);

  // Calls `fn` on the server's thread after this time, unless the server goes before. Any thread.
  void after(std::chrono::milliseconds time, std::move_only_function<void()> fn);

  // Stops accepting, closes idle connections, lets requests under way finish. Any thread.
  void drain();
  // Waits until that is done; false if `limit` passed first. Not on the server's thread.
  bool wait_drained(std::chrono::milliseconds limit);

 private:
  class Core;
  std::shared_ptr<Core> core_;
};

// Is there IPv6 on the loopback interface of this network namespace?
// (/proc/sys/net/ipv6/conf/lo/disable_ipv6, contract §1.1)
[[nodiscard]] bool loopback_has_ipv6();

}  // namespace zt::ztunnel
