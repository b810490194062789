"""The DNS of captured pods under other settings, at its limits, and while pods and name servers come and go.

The mesh is that of harness/dns_shop.py.
"""

import itertools
import re
import socket
import struct

import pytest

from harness import apps, dedicated, dns
from harness.dns_shop import VIP, WWW, build, dig
from harness.mesh import program
from harness.netns import run
from harness.process import Process, eventually


# ---- Settings

def test_a_dedicated_proxy_goes_by_its_own_resolv_conf(mesh, tmp_path):
    """Here queries come to 15053 itself: its name servers are tried in turn, and its search domains completed."""
    build(mesh)
    pod = mesh.nodes[0].pod("alone", captured=False)
    silent = dns.NameServer(mesh.nodes[1].pod("silent", captured=False), lambda *_: [])
    server = dns.NameServer(mesh.names, dns.zone({**WWW, "app.corp.example": "192.0.2.5"}))
    mesh.write()
    (tmp_path / "resolv.conf").write_text(f"nameserver {silent.ip}\nnameserver {server.ip}\nsearch corp.example\noptions timeout:1\n")
    words = f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec {program('ztunnel')} proxy"
    env = dedicated.environment(mesh.file, mesh.ca_folder, "shop/alone/alone")
    mesh.processes.append(Process("dedicated ztunnel", ["unshare", "-m", "sh", "-c", words], env, pod.netns))
    eventually(lambda: 15053 in pod.netns.listening_ports(), "the proxy to listen")

    def own(*asked):
        return dig(pod, "127.0.0.1", "-p", "15053", "+short", *asked)

    eventually(lambda: own("web.shop.svc.cluster.local") == VIP, "the mesh to be known")
    assert own("-x", VIP) == "web.shop.svc.cluster.local."
    for transport in ("+notcp", "+tcp"):
        assert dig(pod, "127.0.0.1", "-p", "15053", transport, "+time=9", "+short", "www.example.com") == "192.0.2.1"
        assert own(transport, "web.shop.svc.cluster.local.corp.example") == f"web.shop.svc.cluster.local.\n{VIP}"
    assert silent.asked("www.example.com", "udp") and server.asked("www.example.com", "udp")


def test_name_servers_and_search_domains_follow_resolv_conf(mesh, tmp_path):
    """As of a container, the file is mounted by itself, and whoever changes it writes it elsewhere."""
    build(mesh)
    pod = mesh.nodes[0].pod("alone", captured=False)
    other = mesh.nodes[1].pod("others", captured=False)
    dns.NameServer(mesh.names, dns.zone(WWW))
    server = dns.NameServer(other, dns.zone({"www.example.com": "198.51.100.7", "partner.example": mesh.web.ip}))
    mesh.extra_workloads.append({"uid": "partner", "name": "partner", "namespace": "shop", "hostname": "partner.example", "workloadIps": [],
                                 "protocol": "TCP", "network": "", "services": {"shop/by-name.shop.svc.cluster.local": {80: 8080}}})
    mesh.service("by-name", "10.96.0.77", 80, 8080, [])
    mesh.web.serve(8080)
    mesh.write()
    file = tmp_path / "resolv.conf"
    file.write_text(f"nameserver {mesh.names.ip}\nsearch corp.example\n")
    words = f"mount --bind {file} /etc/resolv.conf && exec {program('ztunnel')} proxy"
    env = dedicated.environment(mesh.file, mesh.ca_folder, "shop/alone/alone")
    dedicated.redirect(pod.netns)
    proxy = Process("dedicated ztunnel", ["unshare", "-m", "sh", "-c", words], env, pod.netns)
    mesh.processes.append(proxy)
    eventually(lambda: 15053 in pod.netns.listening_ports(), "the proxy to listen")

    def own(*asked):
        return dig(pod, "127.0.0.1", "-p", "15053", "+short", *asked)

    eventually(lambda: own("web.shop.svc.cluster.local") == VIP, "the mesh to be known")
    assert own("www.example.com") == "192.0.2.1"
    assert own("web.shop.svc.cluster.local.other.example") == ""
    file.write_text(f"nameserver {other.ip}\nsearch other.example\n")
    proxy.wait_line(f"name servers read anew.*{other.ip}:53")
    eventually(lambda: own("www.example.com") == "198.51.100.7", "the other name server to be asked")
    assert own("web.shop.svc.cluster.local.other.example") == f"web.shop.svc.cluster.local.\n{VIP}"
    with pod.connect("10.96.0.77", 80) as sock:  # a workload that is known by its name; the first name server does not know it
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"
    assert server.asked("partner.example")
    mark = proxy.mark()
    file.write_text("# nothing\n")
    proxy.wait_line("no name server is named any more", since=mark)
    assert own("www.example.com") == "198.51.100.7"


# As istio-cni writes them, beside dedicated.RULES.
DNS_RULES = """
*raw
-A OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
-A PREROUTING -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1
COMMIT
*nat
-I OUTPUT ! -d 127.0.0.1/32 -p tcp -m tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053
-I OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-ports 15053
COMMIT
"""


def test_behind_the_rules_of_istio_cni_each_query_goes_to_the_name_server_that_was_asked(mesh):
    build(mesh)
    pod = mesh.nodes[0].pod("alone", captured=False)
    other = mesh.nodes[1].pod("others", captured=False)
    dns.NameServer(mesh.names, dns.zone(WWW))
    dns.NameServer(other, dns.zone({"www.example.com": "198.51.100.7"}))
    mesh.write()
    dedicated.redirect(pod.netns)
    run(*pod.netns.prefix(), "iptables-restore", "--noflush", stdin=DNS_RULES)
    dedicated.start(pod, mesh)
    eventually(lambda: 15053 in pod.netns.listening_ports(), "the proxy to listen")
    eventually(lambda: dig(pod, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == VIP, "the mesh to be known")
    for transport in ("+notcp", "+tcp"):
        assert dig(pod, mesh.names.ip, transport, "+short", "web.shop") == VIP
        assert dig(pod, mesh.names.ip, transport, "+short", "www.example.com") == "192.0.2.1"
        assert dig(pod, other.ip, transport, "+short", "www.example.com") == "198.51.100.7"


def test_the_address_to_listen_on_may_be_written_in_every_way(mesh):
    build(mesh)
    dns.NameServer(mesh.names, dns.zone(WWW))
    mesh.start()
    node = mesh.nodes[0]
    for spelling in ("localhost:15053", "LocalHost:15053", "127.0.0.1:15053", "0.0.0.0:15053", "[::]:15053"):
        node.ztunnel.stop()
        node.start_ztunnel(ISTIO_META_DNS_PROXY_ADDR=spelling)
        node.wait_ready()
        mesh.client.wait_captured()
        for transport in ("+notcp", "+tcp"):
            assert dig(mesh.client, mesh.names.ip, transport, "+short", "web.shop") == VIP, spelling
            assert dig(mesh.client, mesh.names.ip, transport, "+short", "www.example.com") == "192.0.2.1", spelling
        with node.netns.socket(kind=socket.SOCK_DGRAM) as sock, pytest.raises(ConnectionRefusedError):  # whoever is not in the pod is not served
            sock.settimeout(5)
            sock.connect((mesh.client.ip, 15053))
            sock.send(dns.query("web.shop"))
            sock.recv(1000)
    node.ztunnel.stop()
    # A service called "istio-meta-dns-proxy-addr" would have made Kubernetes set it to this.
    node.start_ztunnel(ISTIO_META_DNS_PROXY_ADDR="tcp://10.96.0.10:53")
    assert node.ztunnel.wait_exit() != 0
    assert "ISTIO_META_DNS_PROXY_ADDR" in node.ztunnel.text() and "enableServiceLinks" in node.ztunnel.text()


def test_a_pod_that_asks_too_much_at_once_is_told_so_and_others_are_not_harmed(mesh):
    build(mesh)
    other = mesh.nodes[0].pod("other")
    silent = dns.NameServer(mesh.nodes[1].pod("silent", captured=False), lambda *_: [])
    mesh.start()
    node = mesh.nodes[0]

    def reached(limit):
        found = re.search(rf'zt_limit_reached_total{{limit="{limit}"}} (\d+)', node.http(15020, "/metrics")[1])
        return int(found[1]) if found else 0

    with dns.udp_socket(mesh.client, silent.ip) as sock:
        numbers = itertools.count()

        def ask_more():  # no more at a time than the socket's queue holds
            for n in itertools.islice(numbers, 50):
                sock.send(dns.query(f"n{n}.example.com", ident=n))
            return reached("dns_queries_per_pod") > 0

        eventually(ask_more, "the limit of queries to be counted")
        assert dns.rcode(sock.recv(1000)) == dns.SERVFAIL
        assert dig(mesh.client, silent.ip, "+short", "web.shop") == VIP, "what the mesh knows costs no place"
        assert dig(other, silent.ip, "+short", "web.shop") == VIP
    held = [mesh.client.connect(silent.ip, 53) for _ in range(80)]
    eventually(lambda: reached("dns_connections_per_pod") >= 16, "the limit of connections to be counted")
    assert dig(other, silent.ip, "+tcp", "+short", "web.shop") == VIP
    for sock in held:
        sock.close()
    eventually(lambda: dig(mesh.client, silent.ip, "+tcp", "+short", "web.shop") == VIP, "a connection to be free again")


def test_what_slow_queries_over_tcp_hold_is_bounded_and_paid_by_the_pod_that_sends_them(mesh):
    build(mesh)
    other = mesh.nodes[0].pod("other")
    hold = mesh.nodes[1].pod("hold", captured=False)
    with hold.netns.socket() as listener:  # takes connections and reads nothing
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind((hold.ip, 53))
        listener.listen(128)
        mesh.start(ZT_MEMORY_BUDGET="16Mi")
        node = mesh.nodes[0]

        def held():
            with open(f"/proc/{node.ztunnel.pid}/status") as status:
                return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) * 1024

        fresh = held()
        update = dns.query("example.com", dns.SOA, flags=0x2800) + bytes(60_000)  # forwarded as it is
        senders = [mesh.client.connect(hold.ip, 53) for _ in range(60)]
        for sock in senders:
            sock.setblocking(False)
            try:
                for _ in range(32):
                    sock.send(struct.pack(">H", len(update)) + update)
            except BlockingIOError:
                pass
            except ConnectionError:
                pass  # it paid
        eventually(lambda: "zt_memory_cuts_total 0" not in node.http(15020, "/metrics")[1], "somebody to pay")
        assert dig(other, mesh.names.ip, "+short", "web.shop") == VIP
        assert dig(other, mesh.names.ip, "+tcp", "+short", "web.shop") == VIP
        assert held() - fresh < 32 * 1024 * 1024, (held() - fresh) >> 20
        for sock in senders:
            sock.close()


# ---- What comes and goes

def test_the_clusters_dns_in_the_mesh_may_be_restarted_and_moved(mesh):
    build(mesh)
    upstream = dns.NameServer(mesh.names, dns.zone(WWW))
    core = mesh.nodes[1].pod("core-0")
    mesh.start()

    def forward(message, transport):
        return [(dns.ask if transport == "udp" else dns.ask_tcp)(core, upstream.ip, message)]

    def www(name="www.example.com", *words):
        return dig(mesh.client, core.ip, "+nocookie", "+short", *words, name)  # a cookie makes each query another one

    server = dns.NameServer(core, forward)
    assert www() == www("www.example.com", "+tcp") == "192.0.2.1"
    # Its process starts anew: meanwhile names that nobody remembers fail at once, those of the mesh do not.
    server.close()
    assert "SERVFAIL" in dig(mesh.client, core.ip, "later.example.com")
    assert www("web.shop") == VIP and www() == "192.0.2.1"
    server = dns.NameServer(core, dns.zone({"later.example.com": "192.0.2.8"}))
    assert www("later.example.com") == www("later.example.com", "+tcp") == "192.0.2.8"
    # Its pod goes, and another one comes with its address to be.
    server.close()
    core.delete()
    for node in mesh.nodes:
        node.write_pods()
    mesh.edit()
    core = mesh.nodes[1].pod("core-1")
    dns.NameServer(core, forward)
    mesh.nodes[1].write_pods()
    mesh.edit()
    core.wait_captured()
    assert www() == www("www.example.com", "+tcp") == "192.0.2.1"


def test_a_resolver_that_keeps_its_port_is_served_before_during_and_after_its_pod_is_in_the_mesh(mesh):
    """As Netty's does: connection tracking remembers for it where its packets went."""
    build(mesh)
    late = mesh.nodes[0].pod("late")
    server = dns.NameServer(mesh.names, dns.zone(WWW))
    mesh.write()
    for node in mesh.nodes:
        node.write_pods([pod for pod in node.pods if pod.captured and pod is not late])
        node.start_agent()
        node.start_ztunnel()
    mesh.client.wait_captured()
    with dns.udp_socket(late, mesh.names.ip) as sock:
        def ask(name, ident):
            sock.send(dns.query(name, ident=ident))
            return sock.recv(1000)

        assert dns.addresses(ask("www.example.com", 1)) == "192.0.2.1"
        mesh.nodes[0].write_pods()
        late.wait_captured()
        assert dns.addresses(ask("www.example.com", 2)) == "192.0.2.1"
    with dns.udp_socket(late, mesh.names.ip) as sock:
        assert dns.addresses(ask("web.shop", 3)) == VIP
        assert not server.asked("web.shop")
        mesh.nodes[0].write_pods([mesh.client])
        late.wait_released()
        eventually(lambda: not late.netns.run("nft", "list", "ruleset").strip(), "its rules to go")
        assert dns.addresses(ask("www.example.com", 4)) == "192.0.2.1"
        assert dns.rcode(ask("web.shop", 5)) == dns.NXDOMAIN


def test_a_pod_that_is_deleted_while_its_dns_port_is_taken_is_forgotten(mesh):
    build(mesh)
    dns.NameServer(mesh.names, dns.zone(WWW))
    other = mesh.nodes[0].pod("other")
    holder = mesh.client.netns.socket()
    holder.bind(("127.0.0.1", 15053))
    holder.listen(1)
    mesh.write()
    for node in mesh.nodes:
        node.write_pods()
        node.start_agent()
        node.start_ztunnel()
    node = mesh.nodes[0]
    node.ztunnel.wait_line(r"failed to bind to address 127\.0\.0\.1:15053")
    other.wait_captured()
    assert dig(other, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == VIP, "others have theirs"
    uid = mesh.client.uid
    mesh.client.delete()
    node.write_pods()
    eventually(lambda: uid not in node.http(15000, "/config_dump")[1], "the pod to be forgotten")
    mark = node.ztunnel.mark()
    holder.close()
    third = mesh.nodes[0].pod("third")
    node.write_pods()
    third.wait_captured()
    assert dig(third, mesh.names.ip, "+short", "web.shop.svc.cluster.local") == VIP
    assert not node.ztunnel.matching(f"failed to bind.*{uid}|{uid}.*failed to bind", since=mark)
