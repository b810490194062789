#include "ztunnel/dns/message.h"

#include "tests/ztunnel/dns/support.h"

namespace zt::ztunnel::dns::test {
namespace {

TEST_CASE("A query is read in place, its name in lower case") {
  const Bytes message = ask("WwW.Example.COM", {.type = ns_t_aaaa, .edns = 1232, .dnssec_ok = true});
  const Query query(message);
  REQUIRE(query.kind() == Query::Kind::kQuestion);
  CHECK(query.id() == 0x1234);
  CHECK(query.name() == "www.example.com");
  CHECK(query.type() == ns_t_aaaa);
  CHECK(hex(query.questions()) == "03577757074578616d706c6503434f4d00001c0001");
  REQUIRE(query.edns());
  CHECK(query.edns()->payload == 1232);
  CHECK(query.edns()->dnssec_ok);
  CHECK(query.udp_limit() == 1232);
}

TEST_CASE("What is no question of ours") {
  using Kind = Query::Kind;
  const auto [what, message, kind] = GENERATE(table<const char*, const char*, Kind>({
      {"nothing", "", Kind::kIgnore},
      {"half a header", "1234010000010000", Kind::kIgnore},
      {"a response", "123481000001000000000000016100000100 01", Kind::kIgnore},
      {"an update", "123428000001000000000000016100000600 01", Kind::kForward},
      {"an update that cannot be read", "1234280000ff000000000000", Kind::kForward},
      {"no question", "123401000000000000000000", Kind::kRefuse},
      {"a question that is missing", "123401000001000000000000", Kind::kRefuse},
      {"a question that ends early", "12340100000100000000000001610000010 0", Kind::kRefuse},
      {"bytes behind the end", "1234010000010000000000000161000001000100", Kind::kRefuse},
      {"a pointer to itself as name", "123401000001000000000000c00c00010001", Kind::kRefuse},
      {"a pointer to the header as name", "123401000001000000000000c00000010001", Kind::kRefuse},
      {"a label of 64", "12340100000100000000000040", Kind::kRefuse},
      {"a record that is missing", "1234010000010000000000010161000001 0001", Kind::kRefuse},
      {"a record that ends early", "12340100000100000000000101610000010001000029", Kind::kRefuse},
  }));
  INFO(what);
  std::string text(message);
  std::erase(text, ' ');
  const Bytes bytes = unhex(text);
  CHECK(Query(bytes).kind() == kind);
}

TEST_CASE("A name that is too long is refused") {
  std::string text = "123401000001000000000000";
  for (int i = 0; i < 5; ++i) text += "3f" + std::string(126, '6');
  const Bytes bytes = unhex(text + "0000010001");
  CHECK(Query(bytes).kind() == Query::Kind::kRefuse);
}

TEST_CASE("An answer never becomes longer than its limit, says so, and keeps the client's OPT") {
  const auto snapshot = [] {
    std::string yaml = "workloads:\n";
    for (int i = 0; i < 200; ++i) {
      const std::string n = std::to_string(i);
      yaml += "- {uid: c//Pod/shop/p-" + n + ", name: p-" + n + ", namespace: shop, serviceAccount: x, workloadIps: [10.0.0." +
              n + "], services: {\"shop/many.shop.svc.cluster.local\": {\"80\": 80}}}\n";
    }
    return mesh(
        yaml +
        "services:\n- {name: many, namespace: shop, hostname: many.shop.svc.cluster.local, vips: [], ports: {\"80\": 80}}\n");
  }();
  const NameRules rules = NameRules::of_pod("shop", "cluster.local");
  const auto answer = [&](const Ask& how, size_t limit) {
    const Bytes message = ask("many.shop.svc.cluster.local", how);
    const Query query(message);
    auto resolution = resolve(*snapshot, {.names = rules, .network = "", .preferred_ns = {}}, query);
    Bytes out;
    write_answer(query, std::move(resolution.found), 1, limit == 0 ? query.udp_limit() : limit, out);
    return out;
  };
  const Bytes plain = answer({}, 0);
  CHECK(plain.size() <= 512);
  CHECK(plain.size() > 512 - 16);  // no room for one more
  CHECK(describe(plain).starts_with("NOERROR aa tc many.shop.svc.cluster.local 10.0.0."));
  const Bytes edns = answer({.edns = 1232}, 0);
  CHECK(edns.size() <= 1232);
  CHECK(edns.size() > 1232 - 16);
  CHECK(describe(edns).starts_with("NOERROR aa tc "));
  CHECK(hex(View(edns).last(11)) == "00002904d0000000000000");
  CHECK(answer({.edns = 100}, 0).size() <= 512);
  CHECK(hex(View(answer({.edns = 100}, 0)).last(11)) == "0000290200000000000000");
  const Bytes whole = answer({}, kMaxMessageBytes);
  CHECK(describe(whole).starts_with("NOERROR aa many.shop"));
  CHECK(read16(whole, 6) == 200);
}

TEST_CASE("The bits of an answer are those of its query") {
  const auto snapshot =
      mesh("services:\n- {name: web, namespace: shop, hostname: web.example, vips: [/10.96.0.1], ports: {\"80\": 80}}\n");
  const NameRules rules = NameRules::of_pod("shop", "cluster.local");
  const auto [flags, expected] = GENERATE(table<int, int>({
      {0x0100, 0x8580},  // RD
      {0x0000, 0x8480},
      {0x0110, 0x8590},  // CD
      {0x0120, 0x8580},  // AD is the upstream's to give
  }));
  const Bytes message = ask("web.example", {.flags = static_cast<uint16_t>(flags), .edns = 4096, .dnssec_ok = true});
  const Query query(message);
  auto resolution = resolve(*snapshot, {.names = rules, .network = "", .preferred_ns = {}}, query);
  Bytes out;
  write_answer(query, std::move(resolution.found), 1, query.udp_limit(), out);
  CHECK(read16(out, 2) == expected);
  CHECK(hex(View(out).last(11)) == "0000291000000080000000");
}

TEST_CASE("Names that cannot be sent are no names") {
  CHECK(hex(wire_name("Web.example")) == "03776562076578616d706c6500");
  CHECK(wire_name(std::string(64, 'a') + ".example").empty());
  CHECK(wire_name(std::string(300, 'a')).empty());
}

// An upstream's response to `query`.
Bytes respond(View query, uint16_t flags, std::string_view records, uint16_t answer = 0, uint16_t authority = 0,
              uint16_t additional = 0) {
  Bytes response(query.begin(), query.end());
  write16(response, 2, flags);
  write16(response, 6, answer);
  write16(response, 8, authority);
  write16(response, 10, additional);
  const Bytes rest = unhex(records);
  response.insert(response.end(), rest.begin(), rest.end());
  return response;
}

TEST_CASE("Only an answer to the question that was asked is one") {
  const Bytes query = ask("www.example.com");
  const Bytes good = respond(query, 0x8180, "");
  CHECK(answers(good, query, 0x1234));
  CHECK_FALSE(answers(good, query, 0x1235));
  CHECK_FALSE(answers(View(good).first(11), query, 0x1234));
  CHECK_FALSE(answers(View(good).first(good.size() - 1), query, 0x1234));
  CHECK_FALSE(answers(respond(query, 0x0100, ""), query, 0x1234));                   // no response
  CHECK_FALSE(answers(respond(query, 0xa980, ""), query, 0x1234));                   // another opcode
  CHECK_FALSE(answers(respond(ask("www.example.org"), 0x8180, ""), query, 0x1234));  // another name
  CHECK_FALSE(answers(respond(ask("www.example.com", {.type = ns_t_mx}), 0x8180, ""), query, 0x1234));
  CHECK(answers(respond(ask("WWW.example.COM"), 0x8180, ""), query, 0x1234));  // letters are the client's to compare
  Bytes bare = unhex("123481010000000000000000");                              // FORMERR without question
  CHECK(answers(bare, query, 0x1234));
  write16(bare, 2, 0x8180);
  CHECK_FALSE(answers(bare, query, 0x1234));
  write16(bare, 2, 0x8183);
  CHECK_FALSE(answers(bare, query, 0x1234));
}

TEST_CASE("How long an answer may be kept") {
  const Bytes query = ask("www.example.com");
  const std::string a77 = "c00c000100010000004d00045db8d822";                                      // A, TTL 77
  const std::string a0 = "c00c0001000100000000000401020304";                                       // A, TTL 0
  const std::string soa = "c00c000600010000012c001a00000000000100000001000000010000000100000001";  // see below
  const std::string soa300_60 =
      "c00c000600010000012c00160000"
      "00000001"
      "00000002"
      "00000003"
      "00000004"
      "0000003c";
  const std::string opt = "00002904d0000000000000";
  const auto seconds = [](const Bytes& response) {
    const auto life = lifetime(response);
    return life ? life->seconds : 0;
  };
  CHECK(seconds(respond(query, 0x8180, a77, 1)) == 77);
  CHECK(seconds(respond(query, 0x8180, a77 + opt, 1, 0, 1)) == 77);
  CHECK(lifetime(respond(query, 0x8180, a77 + opt, 1, 0, 1))->ttl_offsets == std::vector<uint16_t>{39});
  CHECK(seconds(respond(query, 0x8180, a77 + a0, 2)) == 0);
  CHECK(seconds(respond(query, 0x8380, a77, 1)) == 0);            // truncated
  CHECK(seconds(respond(query, 0x8182, a77, 1)) == 0);            // SERVFAIL
  CHECK(seconds(respond(query, 0x8183, "")) == 0);                // NXDOMAIN without SOA
  CHECK(seconds(respond(query, 0x8183, soa300_60, 0, 1)) == 60);  // RFC 2308
  CHECK(seconds(respond(query, 0x8180, soa300_60, 0, 1)) == 60);
  CHECK(seconds(respond(query, 0x8180, a77 + soa300_60, 1, 1)) == 77);
  CHECK(seconds(respond(query, 0x8180, a77, 2)) == 0);     // a record is missing
  CHECK(seconds(respond(query, 0x8183, soa, 0, 1)) == 0);  // the record's length is wrong
}

}  // namespace
}  // namespace zt::ztunnel::dns::test
