// What a full mutual TLS 1.3 handshake costs: CPU of both ends and of each, and the heap that is left for a
// connection when it is done. Both ends in memory, P-256 certificates of one root, X25519.
//   handshake_bench [handshakes]
#include <fmt/format.h>
#include <malloc.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <vector>

#include "hbone/tls_handshake.h"
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

std::shared_ptr<const TlsContext> context_of(TlsRole role, const identity::WorkloadCertificate& certificate,
                                             bool keep_peer_chain) {
  std::vector<X509*> roots;
  for (const auto& root : certificate.roots()->roots()) roots.push_back(root.get());
  return must(TlsContext::make(
      role,
      {.leaf = certificate.leaf(), .intermediates = {}, .key = certificate.private_key(), .roots = roots},
      {.keep_peer_chain = keep_peer_chain}));
}

struct Ends {
  std::optional<TlsEstablished> client, server;
  double client_seconds = 0, server_seconds = 0;
};

Ends shake(const std::shared_ptr<const TlsContext>& client_context,
           const std::shared_ptr<const TlsContext>& server_context, const identity::SpiffeId& server_id) {
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

  for (const bool keep : {false, true}) {
    const auto client = context_of(TlsRole::kClient, *cart_certificate, keep);
    const auto server = context_of(TlsRole::kServer, *web_certificate, keep);
    for (int i = 0; i < 20; ++i) shake(client, server, web);
    std::vector<Ends> kept;
    kept.reserve(static_cast<size_t>(count));
    const size_t heap = mallinfo2().uordblks;
    double client_seconds = 0, server_seconds = 0;
    for (int i = 0; i < count; ++i) {
      kept.push_back(shake(client, server, web));
      client_seconds += kept.back().client_seconds;
      server_seconds += kept.back().server_seconds;
    }
    const size_t left = mallinfo2().uordblks - heap;
    fmt::print("{}: client {:.0f} µs, server {:.0f} µs, together {:.0f} µs; {} bytes of heap for an end\n",
               keep ? "keeping the peer's chain" : "forgetting the peer's chain",
               client_seconds / count * 1e6, server_seconds / count * 1e6,
               (client_seconds + server_seconds) / count * 1e6, left / static_cast<size_t>(count) / 2);
  }
  fmt::print("of these {} bytes are in the two record layers ({})\n",
             sizeof(RecordSealer) + sizeof(RecordOpener), aead_backend_name(current_aead_backend()));
}
