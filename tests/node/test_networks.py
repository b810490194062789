"""Services whose pods are on another network: a tunnel inside a stream to that network's gateway.

    node 1, the network "": client (captured)    node 2, "net2": web, db (captured); gateways gw-0, gw-1 (addresses of "")
"""

import contextlib
import os
import socket
import threading
import time

import pytest

from harness import apps, dns
from harness.gateway import Gateway
from harness.handover import count, echoes, replace
from harness.hbone import certificate, tls_context
from harness.process import eventually

VIP, DB_VIP = "10.96.0.40", "10.96.0.41"
WEB, DB = "web.shop.svc.cluster.local", "db.shop.svc.cluster.local"


def also(pod, more):
    plain = pod.workload
    pod.workload = lambda: {**plain(), **more()}


@pytest.fixture
def two(mesh):
    first, second = mesh.nodes
    mesh.client = first.pod("client")
    mesh.local = first.pod("web-here", account="web")
    mesh.web, mesh.db = second.pod("web"), second.pod("db")
    mesh.gws = [second.pod(name, account="gateway", captured=False) for name in ("gw-0", "gw-1")]
    mesh.leads = {"destination": f"/{mesh.gws[0].ip}", "hboneMtlsPort": 15008}
    for pod in (mesh.web, mesh.db):
        also(pod, lambda: {"network": "net2", "networkGateway": mesh.leads})
        pod.serve(8080, apps.name_and_echo(pod.name))
    mesh.local.serve(8080, apps.name_and_echo("web-here"))
    for name, vip, pod in (("web", VIP, mesh.web), ("db", DB_VIP, mesh.db)):
        mesh.service(name, vip, 80, 8080, [pod])
        mesh.services[-1][0]["subjectAltNames"] = [pod.identity]
    plain = second.proxy_env
    second.proxy_env = lambda **changes: {**plain(**changes), "NETWORK": "net2"}
    mesh.backends = {f"{WEB}:80": (mesh.web.ip, 15008), f"{DB}:80": (mesh.db.ip, 15008)}
    return mesh


def call(pod, vip, payload=b"hello"):
    with pod.connect(vip, 80, timeout=30) as sock:
        writer = apps.start(lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        data, end = apps.read_to_end(sock)
        writer.join()
    first, _, rest = data.partition(b"\n")
    assert (end, rest) == (apps.FIN, payload), (first, len(rest), end)
    return first.decode()


def test_a_service_of_another_network_is_called_through_its_gateway(two):
    two.start()
    gateway = Gateway(two.gws[0], two, two.backends)
    marks = [node.ztunnel.mark() for node in two.nodes]
    assert call(two.client, VIP) == f"web sees {two.gws[0].ip}"
    (request,) = gateway.requests
    assert request[":authority"] == f"{WEB}:80" and "x-forwarded-network" not in request
    outbound = two.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound"', since=marks[0])
    assert f"dst.addr={two.gws[0].ip}:15008 dst.hbone_addr={WEB}:80" in outbound and f'dst.service="{WEB}"' in outbound
    inbound = two.nodes[1].ztunnel.wait_line('connection complete.*direction="inbound"', since=marks[1])
    assert f'src.identity="{two.client.identity}"' in inbound, "the gateway passes on what it cannot read"
    assert f"dst.hbone_addr={WEB}:80" in inbound and 'src.workload="gw-0"' not in inbound, "the TCP peer is not the source"


def test_bulk_through_the_inner_tunnel_is_complete(two):
    two.start()
    Gateway(two.gws[0], two, two.backends)
    assert call(two.client, VIP, os.urandom(3 << 20)).startswith("web sees")


def test_inner_tunnels_are_shared_and_two_services_behind_one_gateway_are_never_mixed(two):
    two.start()
    gateway = Gateway(two.gws[0], two, two.backends)
    for _ in range(60):
        assert call(two.client, VIP).startswith("web ")
        assert call(two.client, DB_VIP).startswith("db ")
    assert len(gateway.requests) <= 4, "one inner tunnel for each service and worker"


def test_five_hundred_connections_of_two_services_through_one_gateway_are_never_mixed(two):
    """All at once, four of each service at a time, open as long as their like."""
    two.start()
    gateway = Gateway(two.gws[0], two, two.backends)
    wrong, lock = [], threading.Lock()

    def load(number):
        vip, name = ((VIP, "web"), (DB_VIP, "db"))[number % 2]
        for turn in range(63):
            payload = f"{name} {number} {turn} ".encode() * 50
            try:
                said = call(two.client, vip, payload)
                if not said.startswith(f"{name} sees"):
                    raise AssertionError(said)
            except (OSError, AssertionError) as error:
                with lock:
                    wrong.append((number, turn, error))
                return

    threads = [apps.start(lambda number=number: load(number)) for number in range(8)]
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    assert len(gateway.requests) <= 8, "pooled"


def test_workloads_move_to_another_network_while_connections_run(two):
    """New connections take the new way at once; those that run go on as they are, both ways."""
    moved = {"there": False}
    here = two.local.workload
    two.local.workload = lambda: {**here(), **({"network": "net2", "networkGateway": two.leads} if moved["there"] else {})}
    two.service("moving", "10.96.0.43", 80, 8080, [two.local])
    two.services[-1][0]["subjectAltNames"] = [two.db.identity]
    two.backends["moving.shop.svc.cluster.local:80"] = (two.db.ip, 15008)
    also(two.db, lambda: {"services": {"shop/moving.shop.svc.cluster.local": {"80": 8080}, f"shop/{DB}": {"80": 8080}}} if moved["there"] else {})
    two.start()
    gateway = Gateway(two.gws[0], two, two.backends)

    def talking(greeting):
        sock = two.client.connect("10.96.0.43", 80, timeout=30)
        assert apps.read_exactly(sock, len(greeting)) == greeting
        return sock

    near, far = f"web-here sees {two.client.ip}\n".encode(), f"db sees {two.gws[0].ip}\n".encode()
    with talking(near) as old:
        moved["there"] = True
        two.edit()
        with talking(far) as new:
            assert gateway.requests
            moved["there"] = False
            two.edit()
            with talking(near) as again:
                for sock in (old, new, again):
                    echoes(sock, b"still here")


@pytest.mark.parametrize("layer", ["the gateway", "behind it"])
def test_an_alias_of_the_trust_domain_is_taken_at_either_layer(two, layer):
    """Certificates that still say the old name, while the state says the new one."""
    old = "spiffe://old.example/ns/shop/sa/"
    if layer == "behind it":
        # The state expects the old name, the certificate has the new one: both are names of our own trust domain.
        two.services[0][0]["subjectAltNames"] = [old + "web"]
    two.start(ZT_TRUST_DOMAIN_ALIASES="old.example")
    gateway = Gateway(two.gws[0], two, two.backends, identity=old + "gateway" if layer == "the gateway" else None)
    assert call(two.client, VIP) == f"web sees {two.gws[0].ip}"
    assert gateway.requests


@pytest.mark.parametrize("names", [[], ["spiffe://cluster.local/ns/shop/sa/somebody-else"]], ids=["none", "another"])
def test_who_answers_inside_must_be_one_of_the_services_names(two, names):
    two.services[0][0]["subjectAltNames"] = names
    two.start()
    Gateway(two.gws[0], two, two.backends)
    mark = two.nodes[0].ztunnel.mark()
    assert apps.refused(two.client, VIP, 80)
    two.nodes[0].ztunnel.wait_line("error=.*did not present the expected SAN", since=mark)
    assert not two.web.servers[0].peers


def test_a_gateway_with_another_identity_is_refused(two):
    two.start()
    gateway = Gateway(two.gws[0], two, two.backends, identity="spiffe://cluster.local/ns/shop/sa/impostor")
    assert apps.refused(two.client, VIP, 80)
    two.nodes[0].ztunnel.wait_line("error=.*impostor")
    assert not gateway.requests


def test_a_gateway_that_has_no_way_or_does_not_speak_http2_is_an_error_and_nothing_hangs(two):
    two.start()
    gateway = Gateway(two.gws[0], two, {})
    assert apps.refused(two.client, VIP, 80)
    two.nodes[0].ztunnel.wait_line('error="network gateway: http status: 503 Service Unavailable"')
    gateway.pod.servers.pop().close()
    two.gws[0].serve(15008, lambda sock, _peer: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert apps.refused(two.client, DB_VIP, 80)


def test_a_gateway_that_speaks_http1_inside_its_tls_is_an_error_and_nothing_hangs(two):
    """Its certificate is right and its handshake is done; what follows is not HTTP/2."""
    two.start()
    context = tls_context(two.ca_folder, *certificate(two.folder, two.ca_folder, two.gws[0].identity), server=True)

    def serve(raw, _peer):
        with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as sock:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            while sock.recv(65536):
                pass

    two.gws[0].serve(15008, serve)
    mark = two.nodes[0].ztunnel.mark()
    begun = time.monotonic()
    with two.client.connect(VIP, 80, timeout=40) as sock:
        assert apps.read_to_end(sock) == (b"", apps.RST)
    assert time.monotonic() - begun < 30
    two.nodes[0].ztunnel.wait_line('error="h2 failed', since=mark)
    assert call_local(two) == f"web-here sees {two.client.ip}", "others go on"


def call_local(two):
    with two.client.connect(two.local.ip, 8080) as sock:
        sock.shutdown(socket.SHUT_WR)
        return apps.read_to_end(sock)[0].decode().strip()


def test_the_gateway_may_be_known_by_host_name(two, tmp_path):
    two.leads = {"destination": "shop/gateway.example.com", "hboneMtlsPort": 15008}
    two.extra_workloads.append({"uid": "NetworkGateway/net2/gateway.example.com/15008", "name": "g", "namespace": "shop", "serviceAccount": "gateway",
                                "hostname": "gateway.example.com", "workloadIps": [], "protocol": "TCP", "network": "", "services": {}})
    names = two.nodes[1].pod("names", captured=False)
    server = dns.NameServer(names, dns.zone({"gateway.example.com": two.gws[0].ip}))
    (tmp_path / "resolv.conf").write_text(f"nameserver {server.ip}\n")
    two.nodes[0].resolv_conf = tmp_path / "resolv.conf"
    two.start()
    Gateway(two.gws[0], two, two.backends)
    assert call(two.client, VIP) == f"web sees {two.gws[0].ip}"


def split_horizon(two, gateway, name):
    """As istiod tells of the pods of another network: one workload without addresses for all of them."""
    return {"uid": f"net2/SplitHorizonWorkload/{name}/{gateway.ip}/shop/{WEB}", "name": name, "namespace": "shop", "serviceAccount": "default",
            "workloadIps": [], "protocol": "HBONE", "network": "net2", "networkGateway": {"destination": f"/{gateway.ip}", "hboneMtlsPort": 15008},
            "services": {f"shop/{WEB}": {"80": 8080}}}


def test_the_other_network_is_for_when_there_is_nobody_here_and_one_gateway_for_another(two):
    """Split horizon; FAILOVER by network."""
    two.services[0] = (two.services[0][0], [two.local])
    two.services[0][0]["loadBalancer"] = {"mode": "Failover", "routingPreferences": ["Network"]}
    two.services[0][0]["subjectAltNames"] = [two.web.identity]
    two.extra_workloads += [split_horizon(two, gateway, gateway.name) for gateway in two.gws]
    two.start()
    Gateway(two.gws[1], two, {f"{WEB}:80": (two.db.ip, 15008)})
    for _ in range(5):
        assert call(two.client, VIP) == f"web-here sees {two.client.ip}"
    # Nobody listens at gw-0; who is sent there goes to gw-1.
    also(two.db, lambda: {"services": {f"shop/{WEB}": {"80": 8080}}})
    two.services[0] = (two.services[0][0], [])
    two.services[0][0]["subjectAltNames"] = [two.db.identity]
    two.edit()
    for _ in range(10):
        assert call(two.client, VIP) == f"db sees {two.gws[1].ip}"


def test_what_goes_through_a_gateway_goes_along_when_the_proxy_is_replaced_twice(two):
    total = 12 << 20

    def both_ways(sock, _peer):
        sock.settimeout(60)
        data, end = apps.read_to_end(sock)
        sock.sendall(data)
        assert end == apps.FIN
        sock.close()

    two.services[0][0]["ports"]["81"] = 9000
    two.web.serve(9000, both_ways)
    two.start(ZTUNNEL_WORKER_THREADS="1")  # each worker has tunnels of its own
    gateway = Gateway(two.gws[0], two, {**two.backends, f"{WEB}:81": (two.web.ip, 15008)})

    def talking(address, port, name):
        sock = two.client.connect(address, port, timeout=30)
        sock.sendall(b"x")
        first = f"{name} sees {two.gws[0].ip if name == 'web' else two.client.ip}\n".encode()
        assert apps.read_exactly(sock, len(first) + 1) == first + b"x"
        return sock

    through, beside = [talking(VIP, 80, "web") for _ in range(3)], talking(two.local.ip, 8080, "web-here")
    bulk = two.client.connect(VIP, 81, timeout=60)
    payload = os.urandom(1 << 20) * (total >> 20)
    writer = apps.start(lambda: (bulk.sendall(payload), bulk.shutdown(socket.SHUT_WR)))
    for _ in range(2):
        _, line = replace(two, two.nodes[0], ZTUNNEL_WORKER_THREADS="1")
        assert (count(line, "connections"), count(line, "left")) == (6, 0), line
        for sock in (*through, beside):
            echoes(sock, b"still " * 1000)
    writer.join(60)
    data, end = apps.read_to_end(bulk)
    assert [error for server in two.gws[0].servers for error in server.errors] == [], "the gateway has nothing against what it was sent"
    assert (end, data == payload) == (apps.FIN, True)
    asked = len(gateway.requests)
    assert call(two.client, VIP).startswith("web sees")
    assert len(gateway.requests) == asked, "the inner tunnel has come along too"
    for sock in through:
        sock.close()
