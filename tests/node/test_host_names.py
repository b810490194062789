"""Workloads that are known by a host name only: the proxy resolves it by the name servers of its own resolv.conf.

    node 1: client (captured)       node 2: db-0, db-1 (captured or not), names (a name server)
"""

import contextlib
import time

import pytest

from harness import apps, dns
from harness.handover import count, replace
from harness.process import eventually

VIP, VIP6, NAME = "10.96.0.30", "fd00:10:96::30", "db.example.com"


@pytest.fixture
def shop(mesh, tmp_path):
    first, second = mesh.nodes
    mesh.client = first.pod("client")
    mesh.dbs = [second.pod(name, account="db", captured=False) for name in ("db-0", "db-1")]
    mesh.names = second.pod("names", captured=False)
    for pod in mesh.dbs:
        pod.serve(5432, apps.name_and_echo(pod.name))
    mesh.service("db", VIP, 5432, 5432, [], vip6=VIP6)
    mesh.partner = {"uid": "partner", "name": "partner", "namespace": "shop", "serviceAccount": "db", "hostname": NAME, "workloadIps": [],
                    "protocol": "TCP", "network": "", "services": {"shop/db.shop.svc.cluster.local": {"5432": 5432}}}
    mesh.extra_workloads.append(mesh.partner)
    mesh.zone = {NAME: [mesh.dbs[0].ip]}
    mesh.ttl = 60
    mesh.server = dns.NameServer(mesh.names, lambda *asked: mesh.answer(*asked))
    mesh.answer = lambda *asked: dns.zone(mesh.zone, mesh.ttl)(*asked)
    (tmp_path / "resolv.conf").write_text(f"nameserver {mesh.server.ip}\n")
    first.resolv_conf = tmp_path / "resolv.conf"
    return mesh


def call(pod, address=VIP):
    with pod.connect(address, 5432) as sock:
        sock.sendall(b"x")
        data = bytearray()
        while not data.endswith(b"x"):
            more = sock.recv(100)
            assert more, data
            data += more
    return data.decode().split()[0]


def queries(shop):
    return [dns.question_of(message)[:2] for _, message, _ in shop.server.queries if dns.question_of(message)[0] == NAME]


def test_a_workload_without_an_address_is_called_by_its_host_name(shop):
    shop.start()
    mark = shop.nodes[0].ztunnel.mark()
    assert call(shop.client) == call(shop.client) == "db-0"
    assert sorted(queries(shop)) == [(NAME, dns.A), (NAME, dns.AAAA)], "asked once, for both families"
    line = shop.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound"', since=mark)
    assert f"dst.addr={shop.dbs[0].ip}:5432" in line and 'dst.workload="partner"' in line
    eventually(lambda: 'istio_on_demand_dns_total{' in shop.nodes[0].http(15020, "/metrics")[1] and f'hostname="{NAME}"' in shop.nodes[0].http(15020, "/metrics")[1],
               "the peer's metric of it")


def test_the_family_that_the_client_called_comes_first(shop):
    shop.zone[NAME] = [shop.dbs[0].ip, shop.dbs[1].ip6]
    shop.start()
    assert call(shop.client, VIP) == "db-0"
    assert call(shop.client, VIP6) == "db-1"


def test_an_unused_tunnel_by_host_name_goes_along_when_the_proxy_is_replaced(shop):
    db = shop.dbs[0]
    db.captured = db.speaks_hbone = True
    shop.partner["protocol"] = "HBONE"
    shop.start()
    assert call(shop.client) == "db-0"
    made = 'zt_tunnel_handshakes_total{role="server",result="ok"} 1\n'
    assert made in shop.nodes[1].http(15020, "/metrics")[1]
    new, line = replace(shop, shop.nodes[0])
    assert (count(line, "units"), count(line, "left")) == (1, 0), line
    shop.service("other", "10.96.0.31", 80, 80, [])
    shop.edit()
    eventually(lambda: 'zt_tunnels_open{role="client"} 1\n' in new.metrics(), "it to be counted: a push, which knows no address of it, does not end it")


def test_a_mesh_workload_by_host_name_gets_a_tunnel_that_outlives_pushes(shop):
    db = shop.dbs[0]
    db.captured = db.speaks_hbone = True
    shop.partner["protocol"] = "HBONE"
    shop.start()
    assert call(shop.client) == "db-0"
    line = shop.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound"')
    assert f"dst.addr={db.ip}:15008 dst.hbone_addr={db.ip}:5432" in line and f'dst.identity="{db.identity}"' in line
    shop.service("other", "10.96.0.31", 80, 80, [])
    shop.edit()
    assert call(shop.client) == "db-0"
    dials = [line for line in shop.nodes[0].http(15020, "/metrics")[1].splitlines() if line.startswith("zt_pool_dials") and '"ok"' in line]
    assert sum(float(line.split()[-1]) for line in dials) <= 2, dials  # one a worker


def test_an_address_that_is_dead_costs_a_retry_and_no_connection(shop):
    """A records that rotate with each query, one of three dead."""
    ips, turn = [shop.dbs[0].ip, "10.244.2.250", shop.dbs[1].ip], [0]
    shop.nodes[1].netns.ip("route", "add", "unreachable", "10.244.2.250/32")

    def rotate(*asked):
        turn[0] += 1
        at = turn[0] % 3
        return dns.zone({NAME: ips[at:] + ips[:at]}, 1)(*asked)

    shop.answer = rotate
    shop.start()
    assert {call(shop.client) for _ in range(12)} == {"db-0", "db-1"}


def test_two_hundred_who_wait_share_a_query(shop):
    shop.start()
    shop.server_open = False
    held = shop.answer
    shop.answer = lambda *asked: []  # lost: the first try of everybody
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(shop.client.connect(VIP, 5432)) for _ in range(200)]
        eventually(lambda: queries(shop), "a query")
        shop.answer = held
        for sock in waiting:
            assert sock.recv(4) == b"db-0"
    assert len(queries(shop)) <= 6, queries(shop)  # both families, once more after the loss, and not 200 times


def test_an_old_answer_serves_while_the_name_server_is_silent(shop):
    shop.ttl = 1
    shop.start()
    assert call(shop.client) == "db-0"
    shop.answer = lambda *asked: []
    before = time.monotonic()
    eventually(lambda: time.monotonic() - before > 1.5, "the answer to be old", 5)
    assert call(shop.client) == "db-0"
    shop.nodes[0].ztunnel.wait_line("cannot be resolved anew, its old addresses are used", timeout=20)


def test_a_name_that_nobody_knows_is_refused_and_said(shop):
    shop.zone.clear()
    shop.start()
    mark = shop.nodes[0].ztunnel.mark()
    assert apps.refused(shop.client, VIP, 5432)
    shop.nodes[0].ztunnel.wait_line(rf'connection failed.*error="no ip addresses were resolved for workload: partner: {NAME}: there is no such name', since=mark)


def test_a_silent_name_server_ends_the_connection_within_the_limit(shop):
    shop.answer = lambda *asked: []
    shop.start()
    begun = time.monotonic()
    sock = shop.client.connect(VIP, 5432, timeout=30)
    with sock:
        assert apps.read_to_end(sock) == (b"", apps.RST)
    assert time.monotonic() - begun < 15


def test_an_answer_that_was_cut_is_fetched_over_tcp(shop):
    def cut(message, transport):
        (whole,) = dns.zone(shop.zone, shop.ttl)(message, transport)
        return [whole] if transport == "tcp" else [dns.reply(message, flags=0x8380)]

    shop.answer = cut
    shop.start()
    assert call(shop.client) == "db-0"
    assert shop.server.asked(NAME, "tcp")


def test_a_waypoint_by_host_name_is_used(shop):
    """A workload whose name leads to the pod that is the waypoint."""
    way = shop.nodes[1].pod("way")
    plain = way.workload
    way.workload = lambda: {**plain(), "applicationTunnel": {"protocol": "NONE", "port": 15088}}
    way.serve(15088, apps.name_and_echo("way"))
    shop.zone["way.example.com"] = way.ip
    shop.extra_workloads.append({"uid": "way-by-name", "name": "w", "namespace": "shop", "serviceAccount": "way", "hostname": "way.example.com",
                                 "workloadIps": [], "protocol": "HBONE", "network": "", "services": {}})
    shop.services[0][0]["waypoint"] = {"destination": "shop/way.example.com", "hboneMtlsPort": 15008}
    shop.start()
    assert call(shop.client) == "way"
