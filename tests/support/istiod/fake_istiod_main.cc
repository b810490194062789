// A control plane by hand: serves recorded or hand-written responses to a real proxy, and signs its
// certificates.
//
//   fake_istiod --port 15012 --roots DIR [--name HOST]… RESPONSE…
//
// RESPONSE is a DeltaDiscoveryResponse, as bytes (*.binpb, such as tests/golden/xds/wildcard/*-resp-*.binpb)
// or as protobuf JSON (*.json). What they hold is put together; later ones win. The mesh's root goes to
// DIR/root-cert.pem: give it to the proxy as XDS_ROOT_CA and CA_ROOT_CA; DIR/next-root-cert.pem is another
// one. Commands on standard input, one a line:
//   push FILE      put a further response's content and send it
//   end CODE       end all streams with this gRPC status
//   refuse CODE    refuse new streams with it; 0 accepts them again
//   raw FILE [N]   send what is in it, keeping nothing: the response of a *.json, else the bytes as they are;
//                  N times over in one message
//   down, up       stop and start serving
//   serve ROOT     old, next: which of the two roots the server's certificate leads to from the next up on
//   silent, speak  accept streams and send nothing; the opposite
//   token [TEXT]   refuse calls with another token; without TEXT every one is right
//   ca FAULT [A]   answers to requests for certificates, of service account A only: other (another identity),
//                  empty, bad-pem, garbage, expired, never, or the number of a gRPC status; good: as they
//                  should be, for all
//   lifetime N     certificates live N seconds at most
//   node NAME      on demand, the workloads that there are on this node are sent unasked
//   roots STEP     old, both, both-new-signs, new: a change of the mesh's root, step by step
//   received       print the requests that came; certificates: print for whom certificates were asked
//   streams        print how many streams there were
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/istiod/fake_istiod.h"
#include "workload_api/xds/proto/authorization.pb.h"
#include "workload_api/xds/proto/workload.pb.h"

using zt::test::FakeAds;
using zt::test::FakeIstiod;
using zt::test::FakeStatus;
using Response = envoy::service::discovery::v3::DeltaDiscoveryResponse;

namespace {

using Call = FakeIstiod::CertificateCall;
using Answer = FakeIstiod::CertificateAnswer;

// A leaf of its own making, in the form of what sign() answers.
Answer leaf_for(const FakeIstiod& istiod, const Call& call, const std::string& identity, std::chrono::seconds ttl) {
  return {{}, {istiod.pki().sign(call.request.csr(), identity, ttl), istiod.pki().root_pem()}};
}

Answer wrong(const FakeIstiod& istiod, const std::string& fault, const Call& call) {
  if (fault == "other") return leaf_for(istiod, call, "spiffe://cluster.local/ns/other/sa/other", std::chrono::hours(1));
  if (fault == "expired") return leaf_for(istiod, call, call.impersonated(), std::chrono::hours(-1));
  if (fault == "empty") return {{}, {}};
  if (fault == "bad-pem")
    return {{}, {"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", istiod.pki().root_pem()}};
  if (fault == "garbage") return {.raw = "\xff\xff\xff"};
  if (fault == "never") return {.never = true};
  return {{std::atoi(fault.c_str()), "by hand"}, {}};
}

// `account` may be empty: all.
void certificates(FakeIstiod& istiod, const std::string& fault, const std::string& account) {
  if (fault == "good") return istiod.answer_certificates({});
  istiod.answer_certificates([&istiod, fault, account, others = istiod.answers()](const Call& call) -> Answer {
    if (account.empty() || call.impersonated().ends_with("/sa/" + account)) return wrong(istiod, fault, call);
    return others ? others(call) : istiod.sign(call);
  });
}

void roots(FakeIstiod& istiod, const std::string& step) {
  using Roots = FakeIstiod::Roots;
  istiod.set_roots(step == "both"             ? Roots::kBoth
                   : step == "both-new-signs" ? Roots::kBothNewSigns
                   : step == "new"            ? Roots::kNew
                                              : Roots::kOld);
}

std::optional<std::string> read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    std::fprintf(stderr, "fake_istiod: cannot read %s\n", path.c_str());
    return std::nullopt;
  }
  return std::string{std::istreambuf_iterator<char>(in), {}};
}

std::optional<Response> response_of(const std::string& path) {
  const auto text = read(path);
  if (!text) return std::nullopt;
  Response response;
  const bool ok = path.ends_with(".json") ? google::protobuf::util::JsonStringToMessage(*text, &response).ok()
                                          : response.ParseFromString(*text);
  if (ok) return response;
  std::fprintf(stderr, "fake_istiod: %s is not a DeltaDiscoveryResponse\n", path.c_str());
  return std::nullopt;
}

void push(FakeIstiod& istiod, const Response& response) {
  FakeAds::Change change{response.type_url(), {}, {}};
  for (const auto& entry : response.resources())
    change.put[entry.name()] = {
        entry.version(), entry.resource().value(), {entry.aliases().begin(), entry.aliases().end()}, false};
  change.remove = {response.removed_resources().begin(), response.removed_resources().end()};
  istiod.ads().change(change);
}

void raw(FakeIstiod& istiod, const std::string& path, size_t times) {
  auto bytes = read(path);
  if (path.ends_with(".json")) {
    const auto response = response_of(path);
    bytes = response ? std::optional(response->SerializeAsString()) : std::nullopt;
  }
  if (bytes) istiod.ads().send_raw(*bytes, times);
}

void command(FakeIstiod& istiod, const std::string& line) {
  std::istringstream words(line);
  std::string verb, argument, second;
  words >> verb >> argument >> second;
  const int code = std::atoi(argument.c_str());
  if (verb == "push") {
    if (const auto response = response_of(argument)) push(istiod, *response);
  } else if (verb == "end") {
    istiod.ads().end_streams({code, "by hand"});
  } else if (verb == "refuse") {
    istiod.ads().refuse_streams(code == 0 ? std::nullopt : std::optional(FakeStatus{code, "by hand"}));
  } else if (verb == "raw") {
    raw(istiod, argument, static_cast<size_t>(std::max(std::atoi(second.c_str()), 1)));
  } else if (verb == "down") {
    istiod.stop();
  } else if (verb == "up") {
    istiod.start();
  } else if (verb == "serve") {
    istiod.serve_under(argument == "next" ? istiod.next_pki() : istiod.pki());
  } else if (verb == "silent" || verb == "speak") {
    istiod.ads().answer(verb == "speak");
  } else if (verb == "token") {
    istiod.require_token(argument.empty() ? std::nullopt : std::optional(argument));
  } else if (verb == "ca") {
    certificates(istiod, argument, second);
  } else if (verb == "lifetime") {
    istiod.limit_lifetime(std::chrono::seconds(code));
  } else if (verb == "node") {
    istiod.ads().serve_node(argument);
  } else if (verb == "roots") {
    roots(istiod, argument);
  } else if (verb == "streams") {
    std::printf("%d\n", istiod.ads().streams());
  } else if (verb == "certificates") {
    for (const Call& call : istiod.certificate_calls()) std::printf("%s\n", call.impersonated().c_str());
  } else if (verb == "received") {
    for (const auto& [stream, request] : istiod.ads().received())
      std::printf("stream %d: %s\n", stream, request.ShortDebugString().c_str());
  } else if (!verb.empty()) {
    std::printf("unknown command: %s\n", verb.c_str());
  }
  std::printf("ok\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  // JSON names the messages inside an Any; the linker must not leave them out.
  (void)istio::workload::Address::descriptor();
  (void)istio::security::Authorization::descriptor();
  FakeIstiod::Options options;
  std::string roots = ".";
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (argument == "--port")
      options.port = static_cast<uint16_t>(std::atoi(value.c_str())), ++i;
    else if (argument == "--roots")
      roots = value, ++i;
    else if (argument == "--name")
      options.server_names.push_back(value), ++i;
    else
      files.push_back(argument);
  }
  FakeIstiod istiod(options);
  for (const std::string& file : files) {
    const auto response = response_of(file);
    if (!response) return 1;
    istiod.ads().load(response->SerializeAsString());
  }
  std::ofstream(roots + "/root-cert.pem") << istiod.pki().root_pem();
  std::ofstream(roots + "/next-root-cert.pem") << istiod.next_pki().root_pem();
  std::printf("serving %s\n", istiod.address().c_str());
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) command(istiod, line);
  ::pause();  // no more commands; until a signal ends it
}
