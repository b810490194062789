// What a full mutual TLS 1.3 handshake costs: CPU of both ends and of each, and the heap that is left for a
// connection when it is done. Both ends in memory, P-256 certificates of one root, X25519.
//   handshake_bench [handshakes]
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <vector>

#include "hbone/tls/handshake.h"
#include "identity/issuer.h"

using namespace zt;
using namespace zt::hbone;

namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  fmt::print(stderr, "{}\n", result.error().text);
  std::exit(1);
}

std::shared_ptr<const TlsContext> context_of(TlsRole role, const identity::WorkloadCertificate& certificate, bool keep_peer_chain,
                                             std::shared_ptr<VerifiedPeers> known) {
  std::vector<X509*> roots;
  for (const auto& root : certificate.roots()->roots()) roots.push_back(root.get());
  return must(
      TlsContext::make(role, {.leaf = certificate.leaf(), .intermediates = {}, .key = certificate.private_key(), .roots = roots},
                       {.keep_peer_chain = keep_peer_chain, .verified_peers = std::move(known)}));
}

struct Ends {
  std::optional<TlsEstablished> client, server;
  double client_seconds = 0, server_seconds = 0;
};

Ends shake(const std::shared_ptr<const TlsContext>& client_context, const std::shared_ptr<const TlsContext>& server_context,
           const identity::SpiffeId& server_id) {
  Ends ends;
  std::optional<TlsHandshake> client, server;
  const auto timed = [](double& total, auto work) {
    const double start = cpu_seconds();
    work();
    total += cpu_seconds() - start;
  };
  size_t consumed = 0;
  const auto pass_on = [&](TlsHandshake& from, TlsHandshake& to) {
    to.advance(from.output(), consumed);
    from.consume_output(from.output().size());
  };
  timed(ends.client_seconds, [&] {
    client.emplace(must(TlsHandshake::make_client(client_context, {server_id})));
    client->advance({}, consumed);
  });
  timed(ends.server_seconds, [&] {
    server.emplace(must(TlsHandshake::make_server(server_context)));
    pass_on(*client, *server);
  });
  timed(ends.client_seconds, [&] {
    pass_on(*server, *client);
    ends.client.emplace(must(client->take()));
  });
  timed(ends.server_seconds, [&] {
    pass_on(*client, *server);
    ends.server.emplace(must(server->take()));
    server.reset();
  });
  timed(ends.client_seconds, [&] { client.reset(); });
  return ends;
}

// In µs. The best tenth is what the code costs when nobody else wants the CPU and its caches.
struct Figures {
  double median, tenth;
};
Figures figures_of(std::vector<double> seconds) {
  std::ranges::sort(seconds);
  return {seconds[seconds.size() / 2] * 1e6, seconds[seconds.size() / 10] * 1e6};
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 1000;
  const auto now = std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
  auto root = must(identity::make_root(now));
  std::vector<identity::X509Ptr> roots;
  roots.push_back(identity::share(root.certificate.get()));
  auto bundle = must(identity::TrustBundle::create(std::move(roots)));
  auto issuer = identity::Issuer::create(std::move(root.certificate), std::move(root.key), {}, bundle, now);
  if (!issuer) return 1;
  const identity::SpiffeId cart{"cluster.local", "shop", "cart"}, web{"cluster.local", "shop", "web"};
  const auto cart_certificate = must((*issuer)->issue(cart, std::chrono::hours(24), now));
  const auto web_certificate = must((*issuer)->issue(web, std::chrono::hours(24), now));

  struct Case {
    const char* name;
    bool keep_chain, remember_peer;
  };
  for (const Case& each :
       {Case{"an unknown peer", false, false}, Case{"a known peer", false, true},
        Case{"an unknown peer, its chain kept", true, false}, Case{"a known peer, its chain kept", true, true}}) {
    const auto known = each.remember_peer ? std::make_shared<VerifiedPeers>() : nullptr;
    const auto client = context_of(TlsRole::kClient, *cart_certificate, each.keep_chain, known);
    const auto server = context_of(TlsRole::kServer, *web_certificate, each.keep_chain, known);
    for (int i = 0; i < 20; ++i) shake(client, server, web);
    std::vector<Ends> kept;
    kept.reserve(static_cast<size_t>(count));
    const size_t heap = mallinfo2().uordblks;
    std::vector<double> client_seconds, server_seconds;
    for (int i = 0; i < count; ++i) {
      kept.push_back(shake(client, server, web));
      client_seconds.push_back(kept.back().client_seconds);
      server_seconds.push_back(kept.back().server_seconds);
    }
    const size_t left = mallinfo2().uordblks - heap;
    const Figures client_figures = figures_of(client_seconds), server_figures = figures_of(server_seconds);
    fmt::print(
        "{}: client {:.0f} µs (best tenth {:.0f}), server {:.0f} µs ({:.0f}), together {:.0f} µs ({:.0f}); "
        "{} bytes of heap for an end\n",
        each.name, client_figures.median, client_figures.tenth, server_figures.median, server_figures.tenth,
        client_figures.median + server_figures.median, client_figures.tenth + server_figures.tenth,
        left / static_cast<size_t>(count) / 2);
  }
  fmt::print("of these {} bytes are in the two record layers ({})\n", sizeof(RecordSealer) + sizeof(RecordOpener),
             aead_backend_name(current_aead_backend()));
}
