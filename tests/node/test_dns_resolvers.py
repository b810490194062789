"""Resolvers as people have them, at either end of a captured pod's DNS, and the names of a mesh as they ask for them.

The mesh is that of harness/dns_shop.py.
"""

import os
import pathlib
import struct
import subprocess

import pytest

from harness import dns
from harness.dns_shop import VIP, VIP6, WWW, build, dig, with_resolv_conf
from harness.mesh import Mesh
from harness.process import Process, eventually

STUB = "127.0.0.53"


@pytest.fixture(scope="module")
def shop():
    with Mesh() as mesh:
        build(mesh)
        mesh.server = dns.NameServer(mesh.names, dns.zone(WWW))
        yield mesh.start(RUST_LOG="dns=debug")


# ---- Names

def test_a_cluster_domain_of_ones_own_is_completed_as_cluster_local_is(mesh, tmp_path):
    build(mesh, "corp.internal")
    server = dns.NameServer(mesh.names, dns.zone(WWW))
    mesh.start(CLUSTER_DOMAIN="corp.internal")
    for name in ("web", "web.shop", "web.shop.svc", "web.shop.svc.corp.internal", "web.shop.svc.corp.internal."):
        found = with_resolv_conf(mesh.client, tmp_path, mesh.names.ip, "getent", "ahosts", name, domain="corp.internal")
        assert found == {VIP, VIP6}, name
        # A resolver without a search list, as with dnsPolicy None: with and without the last dot.
        assert dig(mesh.client, mesh.names.ip, "+short", name.rstrip(".")) == VIP
        assert dig(mesh.client, mesh.names.ip, "+short", name.rstrip(".") + ".") == VIP
    assert not [m for _, m, _ in server.queries if dns.question_of(m)[0].startswith("web")]
    assert dig(mesh.client, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == ""
    assert server.asked("web.shop.svc.cluster.local"), "another cluster's name is not ours to answer"


def test_pods_of_a_headless_service_are_found_by_name_by_address_and_by_service(shop, tmp_path):
    first, second = shop.members
    for name in ("db-0.db", "db-0.db.shop", "db-0.db.shop.svc.cluster.local"):
        assert with_resolv_conf(shop.client, tmp_path, shop.names.ip, "getent", "ahosts", name) == {first.ip, first.ip6}, name
    found = dig(shop.client, shop.names.ip, "+short", "db.shop.svc.cluster.local").split()
    assert sorted(found) == sorted([first.ip, second.ip])
    assert dig(shop.client, shop.names.ip, "+short", f"{second.ip.replace('.', '-')}.db.shop.svc.cluster.local") == second.ip
    assert dig(shop.client, shop.names.ip, "+short", "-x", first.ip) == "db-0.db.shop.svc.cluster.local."
    assert dig(shop.client, shop.names.ip, "+short", "-x", second.ip6) == "db-1.db.shop.svc.cluster.local."
    assert dig(shop.client, shop.names.ip, "+short", "-x", shop.client.ip) == "", "no service has it: its own name is the upstream's"
    found = dig(shop.client, shop.names.ip, "+short", "_5432._tcp.db.shop.svc.cluster.local", "SRV").splitlines()
    assert sorted(found) == [f"0 100 6432 db-{n}.db.shop.svc.cluster.local." for n in (0, 1)]
    for server in (shop.names.ip, shop.web.ip):  # one knows nothing of it, at the other nobody listens
        for transport in ("+notcp", "+tcp"):
            assert dig(shop.client, server, transport, "+short", "web.shop.svc.cluster.local", "SRV") == "0 100 80 web.shop.svc.cluster.local."


def test_srv_by_the_name_of_a_port_is_the_clusters_dns_to_answer(shop):
    """It alone knows names of ports; the peer's queries of that kind fail (istio/istio 55979)."""
    target = dns.wire_name("web.shop.svc.cluster.local")
    core = dns.NameServer(shop.nodes[1].pod("ports", captured=False),
                          lambda m, _: [dns.reply(m, [dns.record(dns.SRV, struct.pack(">3H", 0, 100, 80) + target)])])
    for name in ("_http._tcp.web.shop.svc.cluster.local", "_headless._tcp.db.shop.svc", "_5432._tcp.db.shop.svc.cluster.local"):
        assert dig(shop.client, core.ip, "+short", name, "SRV") == "0 100 80 web.shop.svc.cluster.local.", name


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_the_chain_of_an_external_name_passes_in_its_order(shop, transport):
    names = ["ext.shop.svc.cluster.local", "a.example.com", "b.example.net", "c.example.org"]
    chain = [dns.record(dns.CNAME, dns.wire_name(to), owner=dns.wire_name(of)) for of, to in zip(names, names[1:])]
    chain.append(dns.record(dns.A, dns.address("192.0.2.77"), owner=dns.wire_name(names[-1])))
    # Neither sorted by name nor by type; in the way a server that follows the chain writes it, and the other way round.
    for order in (chain, chain[::-1]):
        core = dns.NameServer(shop.nodes[1].pod("external", captured=False), lambda m, _, order=order: [dns.reply(m, order)])
        for _ in range(2):  # the second time from memory
            found = dig(shop.client, core.ip, transport, "+nocookie", "+noall", "+answer", "ext.shop.svc.cluster.local").splitlines()
            seen = [line.split()[0].rstrip(".") for line in found]
            assert seen == (names if order is chain else names[::-1])


def test_without_ipv6_services_have_no_aaaa_and_do_exist(mesh):
    build(mesh)
    server = dns.NameServer(mesh.names, dns.zone(WWW))
    mesh.start(IPV6_ENABLED="false")
    for name in ("web.shop.svc.cluster.local", "db.shop.svc.cluster.local", "db-0.db.shop.svc.cluster.local"):
        answer = dns.ask(mesh.client, mesh.names.ip, dns.query(name, dns.AAAA))
        assert dns.rcode(answer) == dns.NOERROR and struct.unpack_from(">H", answer, 6)[0] == 0, name
        assert not server.asked(name)
    assert dig(mesh.client, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == VIP
    assert dig(mesh.client, mesh.names.ip, "+short", "www.example.com", "AAAA") == "2001:db8::1", "of others they pass"


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_service_entries_with_one_host_answer_alike_in_whichever_order_they_are_edited(mesh, first):
    build(mesh)
    dns.NameServer(mesh.names, dns.zone(WWW))

    def entry(ns, vip):
        return {"hostname": "api.partner.example", "name": "partner", "namespace": ns, "vips": [f"/{vip}"], "ports": {"443": 443}}

    def answer():
        return dig(mesh.client, mesh.names.ip, "+short", "api.partner.example")

    entries = {"a": entry("a", "240.240.0.1"), "b": entry("b", "240.240.0.2")}
    order = [first, "b" if first == "a" else "a"]
    mesh.start()
    base = list(mesh.services)

    def edit(*wanted):
        mesh.services = base + [(entries[ns], []) for ns in wanted]
        mesh.edit()

    edit(order[0])
    assert answer() == entries[order[0]]["vips"][0][1:]
    edit(*order)
    both = answer()
    for ns in order:  # each is edited, and what is the same of both stays
        entries[ns] = {**entries[ns], "ports": {"443": 443, "8443": 443}}
        edit(*order)
        assert answer() == both
    assert both == "240.240.0.1", "whichever came first"
    for ns in order:
        entries[ns] = entry(ns, entries[ns]["vips"][0][1:].replace("240.240.0.", "240.240.9."))
        edit(*order)
    assert answer() == "240.240.9.1"
    edit(order[1])
    assert answer() == entries[order[1]]["vips"][0][1:]
    edit()
    assert answer() == ""


# ---- Resolvers

@pytest.fixture(scope="module")
def lookup_of_musl(tmp_path_factory):
    """A program that prints what musl's getaddrinfo finds."""
    folders = list(pathlib.Path("/usr/lib").glob("*-linux-musl"))
    assert folders, "musl-dev is missing: ./dev test installs it"
    source, made = tmp_path_factory.mktemp("musl") / "lookup.c", tmp_path_factory.mktemp("musl") / "lookup"
    source.write_text("""
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int count, char** words) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all = 0;
  if (count != 2 || getaddrinfo(words[1], 0, &hints, &all) != 0) return 1;
  char text[64];
  for (; all; all = all->ai_next) {
    if (getnameinfo(all->ai_addr, all->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST) == 0) puts(text);
  }
}
""")
    subprocess.run(["clang-19", "-O1", "-nostdinc", "-isystem", f"/usr/include/{folders[0].name}", "-nostdlib", "-static", folders[0] / "crt1.o",
                    source, folders[0] / "libc.a", "-o", made], check=True)
    os.chmod(made, 0o755)
    return made


def test_musl_finds_services_and_everybody_else(shop, tmp_path, lookup_of_musl):
    """It asks for A and AAAA at once, from one port, and all name servers in parallel."""
    for name, expected in (("web", {VIP, VIP6}), ("web.shop", {VIP, VIP6}), ("web.shop.svc.cluster.local", {VIP, VIP6}),
                           ("db-1.db", {shop.members[1].ip, shop.members[1].ip6}), ("www.example.com", set(WWW["www.example.com"])),
                           ("nosuch", set())):
        assert with_resolv_conf(shop.client, tmp_path, shop.names.ip, str(lookup_of_musl), name) == expected, name


def start_stub(kind, pod, folder, upstream):
    """A caching resolver of the pod, as node-local caches and systemd-resolved are: everything it does not know goes to `upstream`."""
    if kind == "unbound":
        conf = folder / "unbound.conf"
        conf.write_text("\n".join(["server:", f"interface: {STUB}", 'chroot: ""', 'username: ""', 'pidfile: ""', "do-daemonize: no", "use-syslog: no",
                                   "use-caps-for-id: yes", 'module-config: "validator iterator"', "num-threads: 1", 'local-zone: "10.in-addr.arpa." nodefault',
                                   "forward-zone:", 'name: "."', f"forward-addr: {upstream}"]) + "\n")
        command = ["unbound", "-d", "-p", "-c", str(conf)]
    else:
        command = ["dnsmasq", "-k", "-C", "/dev/null", "-R", "-h", f"--listen-address={STUB}", "--bind-interfaces", "-S", upstream, "--proxy-dnssec",
                   "--user=root", "--pid-file"]
    return Process(kind, command, netns=pod.netns)


@pytest.mark.parametrize("kind", ["unbound", "dnsmasq"])
def test_what_a_stub_resolver_in_the_pod_asks_keeps_its_edns_its_letters_and_do(shop, tmp_path, kind):
    stub = start_stub(kind, shop.client, tmp_path, shop.names.ip)
    try:
        eventually(lambda: "SERVER" in shop.client.netns.run("dig", f"@{STUB}", "+time=1", "+tries=1", "www.example.com", check=False), "the stub to answer")
        before = len(shop.server.queries)
        names = [f"some-letters-{n}.example.com" for n in range(8)]
        for name in names:
            assert "NXDOMAIN" in dig(shop.client, STUB, "+dnssec", name)
        seen = {}
        for _, message, _ in shop.server.queries[before:]:
            seen.setdefault(dns.question_of(message)[0], message)
        for name in names:
            message = seen[name]
            after = 12 + len(dns.question_of(message)[2])
            assert struct.unpack_from(">H", message, 10)[0] == 1 and message[after] == 0, "one OPT record"
            kind, _, extended = struct.unpack_from(">2HI", message, after + 1)
            assert kind == dns.OPT and extended & 0x8000, "with DO"
        if kind == "unbound":  # it writes letters at random, and takes only an answer that repeats them
            assert any(dns.question_of(m)[2] != dns.question_of(m)[2].lower() for m in seen.values())
        assert dig(shop.client, STUB, "+short", "web.shop.svc.cluster.local") == VIP
        assert dig(shop.client, STUB, "+short", "web.shop.svc.cluster.local", "AAAA") == VIP6
        assert dig(shop.client, STUB, "+tcp", "+short", "web.shop.svc.cluster.local") == VIP
        assert dig(shop.client, STUB, "+short", "-x", VIP) == "web.shop.svc.cluster.local."
    finally:
        stub.stop()


@pytest.mark.parametrize("kind", ["unbound", "dnsmasq"])
def test_what_a_real_name_server_says_comes_whole(shop, tmp_path, kind):
    pod = shop.nodes[1].pod(kind, captured=False)
    texts = [f"{n:03d}" + "x" * 200 for n in range(12)]
    if kind == "unbound":
        conf = tmp_path / "server.conf"
        lines = ["server:", f"interface: {pod.ip}", "access-control: 0.0.0.0/0 allow", 'chroot: ""', 'username: ""', 'pidfile: ""', "do-daemonize: no",
                 "use-syslog: no", "num-threads: 1", "module-config: iterator", 'local-zone: "example.com." static',
                 'local-data: "www.example.com. 300 A 192.0.2.1"', 'local-data: "www.example.com. 300 AAAA 2001:db8::1"',
                 *[f"local-data: 'long.example.com. 300 TXT \"{text}\"'" for text in texts]]
        conf.write_text("\n".join(lines) + "\n")
        command = ["unbound", "-d", "-p", "-c", str(conf)]
    else:
        command = ["dnsmasq", "-k", "-C", "/dev/null", "-R", "-h", f"--listen-address={pod.ip}", "--bind-interfaces", "--user=root", "--pid-file",
                   "--local=/example.com/", "--host-record=www.example.com,192.0.2.1,2001:db8::1", *[f"--txt-record=long.example.com,{text}" for text in texts]]
    server = Process(kind, command, netns=pod.netns)
    try:
        eventually(lambda: "NOERROR" in shop.web.netns.run("dig", f"@{pod.ip}", "+time=1", "+tries=1", "www.example.com", check=False), "the server to answer")
        for transport in ("+notcp", "+tcp"):
            assert dig(shop.client, pod.ip, transport, "+short", "www.example.com") == "192.0.2.1"
            assert dig(shop.client, pod.ip, transport, "+short", "www.example.com", "AAAA") == "2001:db8::1"
            assert "NXDOMAIN" in dig(shop.client, pod.ip, transport, "nosuch.example.com")
            # Over UDP what does not fit is said to be cut, and dig comes again over TCP.
            found = dig(shop.client, pod.ip, transport, "+bufsize=1232", "+short", "long.example.com", "TXT").splitlines()
            assert sorted(found) == [f'"{text}"' for text in texts]
    finally:
        server.stop()
