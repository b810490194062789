"""The DNS of captured pods: what the mesh answers, and what goes on to the name server that the pod asked.

    node 1: client (captured)        node 2: web (captured), names and others (name servers, outside the mesh)
"""

import re
import socket
import struct
import threading
import time

import pytest

from harness import apps, dns
from harness.handover import Replacement
from harness.mesh import Mesh, program
from harness.netns import Netns
from harness.process import Process, eventually

VIP, VIP6 = "10.96.0.10", "fd00:10:96::10"
UPSTREAM = {"www.example.com": ["192.0.2.1", "2001:db8::1"], "many.example.com": [f"192.0.2.{n}" for n in range(1, 101)]}


def build(mesh):
    mesh.client = mesh.nodes[0].pod("client")
    mesh.web = mesh.nodes[1].pod("web")
    mesh.names = mesh.nodes[1].pod("names", captured=False)
    mesh.others = mesh.nodes[1].pod("others", captured=False)
    mesh.service("web", VIP, 80, 8080, [mesh.web], vip6=VIP6)
    mesh.web.serve(8080)
    return mesh


@pytest.fixture(scope="module")
def shop():
    with Mesh() as mesh:
        build(mesh)
        mesh.server = dns.NameServer(mesh.names, dns.zone(UPSTREAM))
        mesh.server6 = dns.NameServer(mesh.names, dns.zone(UPSTREAM), mesh.names.ip6)
        mesh.other_server = dns.NameServer(mesh.others, dns.zone({"www.example.com": "198.51.100.7"}))
        yield mesh.start(RUST_LOG="access=debug,dns=debug")


def dig(pod, server, *words):
    return pod.netns.run("dig", f"@{server}", "+time=5", "+tries=1", *words).strip()


def metric(node, name, **labels):
    total = 0
    for line in node.http(15020, "/metrics")[1].splitlines():
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def with_resolv_conf(pod, folder, server, *command):
    """A program of the pod, with a resolv.conf as kubelet writes it."""
    path = f"{folder}/resolv.conf"
    with open(path, "w") as file:
        file.write(f"nameserver {server}\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
    words = " ".join(command)
    return pod.netns.run("unshare", "-m", "sh", "-c", f"mount --bind {path} /etc/resolv.conf && {words}", check=False)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_dig_is_told_the_addresses_of_services(shop, transport, family):
    server = getattr(shop.names, family)
    assert dig(shop.client, server, transport, "+short", "web.shop.svc.cluster.local", "A") == VIP
    assert dig(shop.client, server, transport, "+short", "web.shop.svc.cluster.local", "AAAA") == VIP6
    assert dig(shop.client, server, transport, "+short", "-x", VIP) == "web.shop.svc.cluster.local."
    assert not shop.server.asked("web.shop.svc.cluster.local")


def test_glibc_finds_services_by_every_form_of_their_name(shop, tmp_path):
    for name in ("web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "web.shop.svc.cluster.local."):
        found = with_resolv_conf(shop.client, tmp_path, shop.names.ip, "getent", "ahosts", name)
        assert {line.split()[0] for line in found.splitlines()} == {VIP, VIP6}, name
    found = with_resolv_conf(shop.client, tmp_path, shop.names.ip, "getent", "ahosts", "www.example.com")
    assert {line.split()[0] for line in found.splitlines()} == {"192.0.2.1", "2001:db8::1"}
    assert with_resolv_conf(shop.client, tmp_path, shop.names.ip, "getent", "ahosts", "nosuch") == ""
    # And such a name leads to the pod.
    with shop.client.connect(VIP, 80) as sock:
        sock.sendall(b"hello")
        assert apps.read_exactly(sock, 5) == b"hello"


EDNS = b"\0" + struct.pack(">2HIH", dns.OPT, 1400, 0x8000, 12) + struct.pack(">2H", 10, 8) + b"\1\2\3\4\5\6\7\x08"


@pytest.mark.parametrize("ask", [dns.ask, dns.ask_tcp])
@pytest.mark.parametrize("message", [
    dns.query("WwW.eXaMpLe.CoM", 65, additional=EDNS, count=1),
    dns.query("_x._tcp.www.example.com", dns.SRV),
    dns.query("www.example.com", dns.TXT, flags=0x0130),
    dns.query("www.example.com", 65280),
    dns.query("example.com", dns.SOA, flags=0x2800, additional=b"\xc0\x0c\x00\x01\x00\xff\0\0\0\0\0\0", count=1),
], ids=["letters, EDNS, cookie and DO", "SRV", "bits", "an unknown type", "UPDATE"])
def test_what_the_mesh_does_not_answer_passes_byte_for_byte(shop, ask, message):
    answer = ask(shop.client, shop.names.ip, message)
    name, kind, question = dns.question_of(message)
    seen = [m for m in shop.server.asked(name) if m[2:] == message[2:]]
    assert seen, "the name server sees all but the id as it was sent"
    assert answer[:2] == message[:2], "the client gets its id back"
    assert answer[2:] == dns.zone(UPSTREAM)(message, "udp")[0][2:], "the client sees all but the id as it was sent"


def test_each_query_goes_to_the_name_server_that_the_pod_asked(shop):
    """So the pod's own resolv.conf and dnsConfig count, whatever the node's says."""
    assert dig(shop.client, shop.names.ip, "+short", "www.example.com") == "192.0.2.1"
    assert dig(shop.client, shop.others.ip, "+short", "www.example.com") == "198.51.100.7"
    assert dig(shop.client, shop.others.ip, "+tcp", "+short", "www.example.com") == "198.51.100.7"
    assert dig(shop.client, shop.names.ip, "+tcp", "+short", "www.example.com") == "192.0.2.1"
    assert dig(shop.client, shop.names.ip6, "+short", "www.example.com") == "192.0.2.1"


def test_many_who_ask_at_once_cost_one_query_and_later_ones_none(shop):
    held = threading.Event()
    asked = []

    def answer(message, _transport):
        asked.append(message)
        held.wait(5)
        return [dns.reply(message, [dns.record(dns.A, dns.address("192.0.2.9"), 300)])]

    server = dns.NameServer(shop.nodes[1].pod("slow", captured=False), answer)
    sockets = [dns.udp_socket(shop.client, server.ip) for _ in range(40)]
    for n, sock in enumerate(sockets):
        sock.send(dns.query("Slow.example.com" if n % 2 else "slow.EXAMPLE.com", ident=n))
    eventually(lambda: metric(shop.nodes[0], "zt_dns_forwarded_total", result="shared") >= 39, "all to wait")
    held.set()
    for n, sock in enumerate(sockets):
        got = sock.recv(1000)
        assert struct.unpack(">H", got[:2])[0] == n
        assert got[12:] == dns.reply(dns.query("Slow.example.com" if n % 2 else "slow.EXAMPLE.com"), [dns.record(dns.A, dns.address("192.0.2.9"), 300)])[12:]
        sock.close()
    assert len(asked) <= 2, "but for one that was sent again because the answer took its time"
    before = len(asked)
    later = dns.ask(shop.client, server.ip, dns.query("slow.example.com"))
    assert dns.addresses(later) == "192.0.2.9"
    assert len(asked) == before, "it is remembered"


def test_answers_of_anybody_else_are_not_taken(shop):
    def answer(message, _transport):
        forged = dns.reply(message, [dns.record(dns.A, dns.address("203.0.113.66"))])
        other = dns.query("www.example.org", ident=struct.unpack(">H", message[:2])[0])
        return [bytes([forged[0] ^ 1]) + forged[1:], dns.reply(other, [dns.record(dns.A, dns.address("203.0.113.66"))]), message,
                dns.reply(message, [dns.record(dns.A, dns.address("192.0.2.1"))])]

    server = dns.NameServer(shop.nodes[1].pod("forger", captured=False), answer)
    for n in range(20):
        assert dns.addresses(dns.ask(shop.client, server.ip, dns.query(f"n{n}.example.com"))) == "192.0.2.1"
    assert len({port for _, _, port in server.queries}) > 15, "each query has a port of its own"
    ids = {message[:2] for _, message, _ in server.queries}
    assert len(ids) > 15 and ids != {b"\x12\x34"}
    assert metric(shop.nodes[0], "zt_dns_dropped_total", reason="not an answer") >= 60


def test_what_does_not_fit_a_packet_is_fetched_over_tcp(shop):
    def answer(message, transport):
        whole = [dns.record(dns.A, dns.address(ip)) for ip in UPSTREAM["many.example.com"]]
        return [dns.reply(message, whole if transport == "tcp" else whole[:5], flags=0x8180 if transport == "tcp" else 0x8380)]

    server = dns.NameServer(shop.nodes[1].pod("large", captured=False), answer)
    found = dig(shop.client, server.ip, "+short", "many.example.com").splitlines()
    assert set(found) == set(UPSTREAM["many.example.com"])
    assert [t for t, _, _ in server.queries] == ["udp", "tcp"]


def test_a_zone_transfer_passes_whole(shop):
    def answer(message, _transport):
        soa = dns.record(dns.SOA, b"\0\0" + struct.pack(">5I", 1, 60, 60, 60, 60))
        parts = [[soa], *[[dns.record(dns.A, dns.address(f"192.0.2.{n}"))] for n in range(20)], [soa]]
        return [dns.reply(message, part) for part in parts]

    server = dns.NameServer(shop.nodes[1].pod("zones", captured=False), answer)
    found = dig(shop.client, server.ip, "+tcp", "+noall", "+answer", "example.com", "AXFR")
    assert len(re.findall(r"192\.0\.2\.\d+", found)) == 20
    assert server.connections == 1


def test_a_name_server_that_says_nothing_costs_the_client_a_failure_and_nobody_else_anything(shop):
    silent = dns.NameServer(shop.nodes[1].pod("silent", captured=False), lambda *_: [])
    with dns.udp_socket(shop.client, silent.ip) as sock:
        sock.send(dns.query("www.example.com"))
        for _ in range(20):
            assert dig(shop.client, shop.names.ip, "+short", "web.shop.svc.cluster.local") == VIP
        assert dns.rcode(sock.recv(1000)) == dns.SERVFAIL
    assert len(silent.queries) > 1, "it was asked again"
    # Nobody listens there at all: told at once.
    began = time.monotonic()
    assert dns.rcode(dns.ask(shop.client, shop.web.ip, dns.query("www.example.com"))) == dns.SERVFAIL
    assert time.monotonic() - began < 4


def test_bad_packets_are_dropped_or_refused_and_counted(shop):
    before = metric(shop.nodes[0], "zt_dns_dropped_total", reason="malformed"), metric(shop.nodes[0], "zt_dns_dropped_total", reason="not a query")
    with dns.udp_socket(shop.client, shop.names.ip) as sock:
        for packet in (b"x", b"", dns.reply(dns.query("web")), dns.query("web")[:-3]):
            sock.send(packet)
        sock.send(dns.query("web.shop", ident=7))
        first, second = sock.recv(1000), sock.recv(1000)
    assert dns.rcode(first) == 1 and len(first) == 12
    assert second[:2] == b"\0\7" and dns.addresses(second) == VIP
    assert metric(shop.nodes[0], "zt_dns_dropped_total", reason="malformed") == before[0] + 1
    assert metric(shop.nodes[0], "zt_dns_dropped_total", reason="not a query") == before[1] + 3


def test_queries_are_counted_and_logged_as_the_peers_are(shop):
    mark = shop.nodes[0].ztunnel.mark()
    labels = {"request_query_type": "aaaa", "request_protocol": "udp"}
    before = metric(shop.nodes[0], "istio_dns_requests_total", **labels)
    dig(shop.client, shop.names.ip, "web.shop.svc.cluster.local", "AAAA")
    shop.nodes[0].ztunnel.wait_line(r'debug\tdns\t.*src.workload="client" src.namespace="shop" query="AAAA" '
                                    r'domain="web.shop.svc.cluster.local." result="success" endpoints=1', since=mark)
    assert metric(shop.nodes[0], "istio_dns_requests_total", **labels) == before + 1
    mark = shop.nodes[0].ztunnel.mark()
    dns.ask(shop.client, shop.names.ip, dns.query("counted.example.com"))
    shop.nodes[0].ztunnel.wait_line(r'result="forwarded" endpoints=0', since=mark)
    assert metric(shop.nodes[0], "istio_dns_upstream_requests_total", request_query_type="a") > 0
    assert metric(shop.nodes[0], "istio_dns_upstream_request_duration_seconds_count", request_query_type="a") > 0


def test_a_name_server_in_the_mesh_is_reached_and_does_not_ask_itself(mesh):
    """The cluster's DNS is a pod too: its own queries go to its own upstream, not to itself by way of the node's resolv.conf."""
    build(mesh)
    upstream = dns.NameServer(mesh.others, dns.zone(UPSTREAM))
    core = mesh.nodes[1].pod("core")

    def forward(message, transport):
        return [(dns.ask if transport == "udp" else dns.ask_tcp)(core, upstream.ip, message)]

    dns.NameServer(core, forward)
    mesh.start()
    assert dig(mesh.client, core.ip, "+short", "www.example.com") == "192.0.2.1"
    assert dig(mesh.client, core.ip, "+tcp", "+short", "www.example.com") == "192.0.2.1"
    assert len(upstream.asked("www.example.com")) == 2


def test_a_pod_whose_lo_has_no_ipv6_has_dns(mesh):
    build(mesh)
    mesh.client.netns.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
    mesh.start()
    assert dig(mesh.client, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == VIP


def test_a_pod_whose_dns_port_is_taken_is_served_when_it_is_free(mesh):
    build(mesh)
    holder = mesh.client.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    holder.bind(("127.0.0.1", 15053))
    mesh.write()
    for node in mesh.nodes:
        node.write_pods()
        node.start_agent()
        node.start_ztunnel()
    mesh.nodes[0].ztunnel.wait_line(r"failed to bind to address 127\.0\.0\.1:15053")
    holder.close()
    mesh.client.wait_captured()
    assert dig(mesh.client, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == VIP


def test_no_query_fails_while_a_proxy_takes_anothers_place(mesh):
    build(mesh)
    dns.NameServer(mesh.names, dns.zone(UPSTREAM))
    mesh.start(TERMINATION_GRACE_PERIOD_SECONDS="20")
    node, old = mesh.nodes[0], mesh.nodes[0].ztunnel
    failures, count, stop = [], [0], threading.Event()
    begun, steps = time.monotonic(), []

    def note(step):
        steps.append((step, round(time.monotonic() - begun, 3)))

    def keep_asking(name, ask):
        while not stop.is_set():
            since = round(time.monotonic() - begun, 3)
            try:
                answer = ask(mesh.client, mesh.names.ip, dns.query(name.format(count[0])))
                if dns.rcode(answer) not in (dns.NOERROR, dns.NXDOMAIN):
                    failures.append((name, ask.__name__, since, answer))
            except (OSError, AssertionError) as error:
                failures.append((name, ask.__name__, since, round(time.monotonic() - begun, 3), error))
            count[0] += 1

    threads = [apps.start(lambda n=n, a=a: keep_asking(n, a)) for n in ("web.shop", "n{}.example.com") for a in (dns.ask, dns.ask_tcp)]
    beside = Netns("new")
    try:
        new = Process("the new ztunnel", [program("ztunnel"), "proxy", "ztunnel"], node.proxy_env(), beside)
        mesh.processes.append(new)
        eventually(lambda: node.http(15021, "/healthz/ready", netns=beside)[0] == 200, "the new proxy to be ready")
        seen = count[0]
        eventually(lambda: count[0] > seen + 100, "queries beside both")
        note("old told to leave")
        old.signal(15)
        assert old.wait_exit() == 0
        note("old gone")
        seen = count[0]
        eventually(lambda: count[0] > seen + 100, "queries to the new one")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        beside.delete()
    assert not failures, (failures[:3], steps, old.matching("handed over|leaving before|took over|shutdown complete"))


def test_who_has_connected_over_tcp_and_is_slow_to_ask_is_answered_by_a_proxy_that_leaves(mesh):
    build(mesh)
    dns.NameServer(mesh.names, dns.zone(UPSTREAM))
    mesh.start(TERMINATION_GRACE_PERIOD_SECONDS="20")
    node, old = mesh.nodes[0], mesh.nodes[0].ztunnel
    with mesh.client.connect(mesh.names.ip, 53) as slow:
        new = Replacement(mesh, node).wait_ready()
        old.signal(15)
        new.process.wait_line("took over from the process before")
        time.sleep(2)  # a client that the machine has left without a turn
        assert old.alive()
        query = dns.query("web.shop.svc.cluster.local")
        slow.sendall(struct.pack(">H", len(query)) + query)
        assert dns.rcode(dns.read_message(slow)) == dns.NOERROR
    assert old.wait_exit() == 0


def test_without_capture_the_proxy_answers_nobody(mesh):
    build(mesh)
    dns.NameServer(mesh.names, dns.zone(UPSTREAM))
    mesh.write()
    for node in mesh.nodes:
        node.write_pods()
        node.start_agent(AMBIENT_DNS_CAPTURE="false")
        node.start_ztunnel(ISTIO_META_DNS_CAPTURE="false")
    mesh.client.wait_captured()
    assert dig(mesh.client, mesh.names.ip, "+short", "www.example.com") == "192.0.2.1"
    assert dns.rcode(dns.ask(mesh.client, mesh.names.ip, dns.query("web.shop.svc.cluster.local"))) == dns.NXDOMAIN
    assert 15053 not in mesh.client.netns.listening_ports()
