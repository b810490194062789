#include "hbone/connect_headers.h"
#include "mesh/reason.h"

#include <catch2/catch.hpp>

using namespace zt;
using namespace zt::hbone;

namespace {
std::string value_of(const Headers& headers, std::string_view name) {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "(absent)";
}
}  // namespace

TEST_CASE("a CONNECT request carries what the real proxy's does, in its order") {
  // Values as captured from istio/ztunnel.
  Baggage source;
  source.cluster = "Kubernetes";
  source.namespace_ = "shop";
  source.workload_type = "pod";
  source.workload_name = "client-0";
  source.service_name = "shopper";
  source.service_version = "r7";
  source.region = "region-1";
  source.zone = "zone-1a";
  const auto headers = render_connect({.authority = "10.240.2.11:8081",
                                       .source = source,
                                       .client = *SocketAddress::parse("10.240.1.20:44344"),
                                       .service_host = "web.shop.svc.cluster.local",
                                       .traceparent = "00-415b73d418760ecc5c77d6979d7db6f1-82dae435173ecaba-00",
                                       .from_network = std::nullopt});
  CHECK(headers ==
        Headers{
            {":method", "CONNECT"},
            {":authority", "10.240.2.11:8081"},
            {"baggage",
             "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=client-0,service.name=shopper,service.version=r7,"
             "cloud.region=region-1,cloud.availability_zone=zone-1a"},
            {"forwarded", "for=\"10.240.1.20:44344\";host=web.shop.svc.cluster.local"},
            {"traceparent", "00-415b73d418760ecc5c77d6979d7db6f1-82dae435173ecaba-00"}});
}

TEST_CASE("what is not known is left out of a request") {
  const auto headers = render_connect({.authority = "[fd00::1]:80",
                                       .source = {},
                                       .client = *SocketAddress::parse("[fd00::2]:4000"),
                                       .service_host = "",
                                       .traceparent = "t",
                                       .from_network = ""});
  CHECK(value_of(headers, "baggage") == "(absent)");
  CHECK(value_of(headers, "forwarded") == "for=\"[fd00::2]:4000\"");
  CHECK(value_of(headers, "x-forwarded-network").empty());  // an empty network is still said
}

TEST_CASE("baggage is read leniently and never trusted to be well-formed") {
  const auto read = [](std::string_view text) { return Baggage::parse(text); };
  const auto whole = read(
      "k8s.cluster.name=c,k8s.namespace.name=n,k8s.job.name=w,service.name=s,service.version=v,cloud.region=r,cloud.availability_"
      "zone=z");
  REQUIRE(whole);
  CHECK(whole->cluster == "c");
  CHECK(whole->workload_type == "job");
  CHECK(whole->workload_name == "w");
  CHECK(whole->zone == "z");
  CHECK(read("")->cluster.empty());
  CHECK(read(",,,=,a=b,k8s.namespace.name")->namespace_.empty());
  CHECK(read("k8s.namespace.name=a,k8s.namespace.name=b")->namespace_ == "b");  // last wins
  CHECK(read("k8s.namespace.name=a=b")->namespace_ == "a");
  CHECK(read(" k8s.namespace.name=a")->namespace_.empty());  // keys are not trimmed
  CHECK_FALSE(read("k8s.namespace.name=\xc3\xa4"));
  CHECK_FALSE(read(std::string("k8s.namespace.name=a\0", 21)));
  CHECK_FALSE(read(std::string(kMaxHintBytes + 1, 'a')));
  // What is rendered is read back.
  CHECK(read(whole->render())->render() == whole->render());
}

TEST_CASE("the host of a forwarded header") {
  const auto [text, host] = GENERATE(table<std::string, std::string>({
      {"for=\"1.2.3.4:80\";host=web.shop", "web.shop"},
      {"host=\"web.shop\"", "web.shop"},
      {"for=x; host=a ; host=b", "a"},
      {"host=", ""},
      {"host=\"\"", ""},
      {"for=\"1.2.3.4:80\"", ""},
      {"", ""},
      {"Host=a", ""},
      {"host=\xc3\xa4", ""},
  }));
  INFO(text);
  CHECK(parse_forwarded_host(text).value_or("") == host);
}

TEST_CASE("a trace context is taken over only if it is one") {
  const auto [text, good] = GENERATE(table<std::string, bool>({
      {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true},
      {std::string(55, 'x'), false},  // the peer's crash
      {std::string(55, '-'), false},
      {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", false},
      {"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-00", false},
      {"", false},
  }));
  INFO(text);
  const auto parsed = TraceParent::parse(text);
  CHECK(parsed.has_value() == good);
  if (parsed) CHECK(parsed->render() == text);
}

TEST_CASE("fresh trace contexts are well-formed and differ") {
  const auto a = TraceParent::random(), b = TraceParent::random();
  CHECK(TraceParent::parse(a.render()));
  CHECK(a.trace_id != b.trace_id);
}

TEST_CASE("a request is read, or refused with the status that the peers give") {
  const auto [name, method, authority, status] = GENERATE(table<std::string, std::string, std::string, int>({
      {"address", "CONNECT", "10.0.0.1:8080", 200},
      {"IPv6", "CONNECT", "[2001:db8::1]:8080", 200},
      {"hostname", "CONNECT", "web.shop.svc.cluster.local:80", 200},
      {"longest hostname", "CONNECT", std::string(253, 'a') + ":65535", 200},
      {"hostname too long", "CONNECT", std::string(254, 'a') + ":65535", 400},
      {"padded port", "CONNECT", "web:" + std::string(60'000, '0') + "80", 400},
      {"port 0", "CONNECT", "10.0.0.1:0", 200},
      {"not CONNECT", "GET", "10.0.0.1:8080", 400},
      {"a long method", std::string(60'000, 'X'), "10.0.0.1:8080", 400},
      {"no port", "CONNECT", "10.0.0.1", 400},
      {"no host", "CONNECT", ":80", 400},
      {"colons", "CONNECT", "::::", 400},
      {"IPv6 without brackets", "CONNECT", "2001:db8::1:80", 400},
      {"port too large", "CONNECT", "web:65536", 400},
      {"port with a sign", "CONNECT", "web:+80", 400},
      {"user part", "CONNECT", "a@b:80", 400},
      {"empty port", "CONNECT", "host:", 400},
      {"port with a letter", "CONNECT", "host:80x", 400},
      {"negative port", "CONNECT", "host:-1", 400},
      {"a space", "CONNECT", "a b:80", 400},
      {"a path", "CONNECT", "host/x:80", 400},
      {"a query", "CONNECT", "host?x:80", 400},
      {"a fragment", "CONNECT", "host#x:80", 400},
      {"a backslash", "CONNECT", "host\\x:80", 400},
      {"a control character", "CONNECT", "h\x01:80", 400},
      {"beyond ASCII", "CONNECT", "h\xc3\xb6st:80", 400},
      {"two ports", "CONNECT", "host:80:90", 400},
      {"IPv6 without a port", "CONNECT", "[::1]", 400},
      {"empty", "CONNECT", "", 400},
  }));
  INFO(name);
  const auto request = parse_connect({{":method", method}, {":authority", authority}});
  CHECK((request ? 200 : reason_info(request.error().reason).http_status) == status);
  if (request) {
    CHECK(request->address.has_value() == (name.find("hostname") == std::string::npos));
  } else {
    CHECK(request.error().text.size() < 200);  // it goes into the log
  }
}

TEST_CASE("hints of a request are kept apart from what decides") {
  const auto request = parse_connect({{":method", "CONNECT"},
                                      {":authority", "10.0.0.1:80"},
                                      {"baggage", "k8s.namespace.name=a"},
                                      {"baggage", "service.name=b"},
                                      {"forwarded", "for=\"9.9.9.9:1\";host=h"},
                                      {"traceparent", "nonsense"},
                                      {"x-forwarded-network", "net2"}});
  REQUIRE(request);
  CHECK(request->baggage->namespace_ == "a");
  CHECK(request->baggage->service_name == "b");
  CHECK(request->forwarded_host == "h");
  CHECK(request->trace.trace_id.size() == 32);
  CHECK(request->from_network == "net2");
}

TEST_CASE("an answer other than 200 is a failure that says so") {
  CHECK(parse_answer({{":status", "200"}}));
  const auto [status, text] = GENERATE(table<std::string, std::string>({
      {"401", "http status: 401 Unauthorized"},
      {"503", "http status: 503 Service Unavailable"},
      {"204", "http status: 204 <unknown status code>"},
      {"abc", "http status: 0 <unknown status code>"},
  }));
  const auto answer = parse_answer({{":status", status}});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().text == text);
  CHECK(answer.error().reason == Reason::kConnectStatus);
}
