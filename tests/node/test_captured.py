"""Ordinary TCP of unchanged programs, captured, tunnelled and delivered: who is captured, where the peer is, what it is called.

One mesh serves the whole file: nothing here changes it.
"""

import os
import re
import socket

import pytest

from harness import apps
from harness.mesh import Mesh
from harness.process import Process, eventually
from harness.sniff import Capture, is_tls

VIP, VIP6, EMPTY_VIP = "10.96.0.10", "fd00:10:96::10", "10.96.0.11"


@pytest.fixture(scope="module")
def shop():
    with Mesh() as mesh:
        first, second = mesh.nodes
        for name in ("client", "cart"):
            setattr(mesh, name, first.pod(name))
        for name in ("web", "web2"):
            setattr(mesh, name, second.pod(name, account="web"))
        mesh.plain = second.pod("plain", captured=False)
        mesh.outsider = first.pod("outsider", captured=False)
        mesh.service("web", VIP, 80, 8080, [mesh.web, mesh.web2], vip6=VIP6)
        mesh.service("empty", EMPTY_VIP, 80, 8080, [])
        for pod in mesh.pods:
            pod.serve(8080, apps.name_and_echo(pod.name))
        yield mesh.start()


def call(pod, address, port=8080, payload=b"hello"):
    """One exchange: what the server said first, and whether the echo and both ends of stream came."""
    with pod.connect(address, port) as sock:
        mine = sock.getsockname()
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        data, end = apps.read_to_end(sock)
    assert end == apps.FIN
    if pod.captured:  # its line is written: what is logged from here on belongs to later calls
        name = f"[{mine[0]}]:{mine[1]}" if ":" in mine[0] else f"{mine[0]}:{mine[1]}"
        pod.node.ztunnel.wait_line(re.escape(f"connection complete\tsrc.addr={name} "))
    first, _, rest = data.partition(b"\n")
    assert rest == payload
    return first.decode()


@pytest.mark.parametrize("family", ["ip", "ip6"])
@pytest.mark.parametrize("where", ["cart", "web"], ids=["on the same node", "on the other node"])
def test_both_ends_captured_talk_with_their_identities(shop, where, family):
    server = getattr(shop, where)
    marks = [node.ztunnel.mark() for node in shop.nodes]
    said = call(shop.client, getattr(server, family))
    assert said == f"{where} sees {getattr(shop.client, family)}", "the application sees the client's own address"
    for node, mark, direction in ((shop.nodes[0], marks[0], "outbound"), (server.node, marks[server.node.number - 1], "inbound")):
        line = node.ztunnel.wait_line(rf'connection complete.*direction="{direction}"', since=mark)
        assert f'src.identity="{shop.client.identity}"' in line
        assert f'dst.identity="{server.identity}"' in line
        assert ":15008 dst.hbone_addr=" in line
        assert ('zt.path="local"' in line) == (where == "cart"), "without a tunnel on one node, with one between two"


@pytest.mark.parametrize("vip, family", [(VIP, "ip"), (VIP6, "ip6")])
def test_a_pod_that_calls_its_own_service_is_seen_under_its_own_address(shop, vip, family):
    own = getattr(shop.web, family)
    assert {call(shop.web, vip, 80) for _ in range(8)} == {f"web sees {own}", f"web2 sees {own}"}


def test_a_server_with_ipv6_on_eth0_and_none_on_lo_is_reached_over_ipv6(mesh):
    first, second = mesh.nodes
    client, server = first.pod("client"), second.pod("server")
    server.netns.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
    seen = []
    server.serve(8080, lambda sock, peer: (seen.append(peer[0]), apps.echo(sock, peer)))
    mesh.start()
    with client.connect(server.ip6, 8080) as sock:
        sock.sendall(b"hello")
        assert apps.read_exactly(sock, 5) == b"hello"
    assert seen == [client.ip6]


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_server_outside_the_mesh_is_reached_in_plain_tcp(shop, family):
    mark = shop.nodes[0].ztunnel.mark()
    said = call(shop.client, getattr(shop.plain, family))
    assert said == f"plain sees {getattr(shop.client, family)}"
    line = shop.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound"', since=mark)
    assert "hbone_addr" not in line


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_client_outside_the_mesh_reaches_a_captured_server(shop, family):
    mark = shop.nodes[1].ztunnel.mark()
    said = call(shop.outsider, getattr(shop.web, family))
    assert said == f"web sees {getattr(shop.outsider, family)}"
    line = shop.nodes[1].ztunnel.wait_line('connection complete.*direction="inbound"', since=mark)
    assert "src.identity" not in line and "hbone_addr" not in line


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_a_service_address_spreads_connections_over_its_endpoints(shop, vip):
    said = [call(shop.client, vip, 80).split()[0] for _ in range(8)]
    assert {"web", "web2"} == set(said)
    assert 2 <= said.count("web") <= 6


def test_an_address_of_which_the_mesh_knows_nothing_is_passed_through(shop):
    mark = shop.nodes[0].ztunnel.mark()
    server = apps.Server(shop.nodes[1].netns, 9000, apps.name_and_echo("node"))
    try:
        assert call(shop.client, "192.168.77.2", 9000) == f"node sees {shop.client.ip}"
    finally:
        server.close()
    line = shop.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound"', since=mark)
    assert "dst.addr=192.168.77.2:9000" in line and "hbone_addr" not in line


def test_a_service_without_endpoints_is_refused_not_passed_through(shop):
    mark = shop.nodes[0].ztunnel.mark()
    assert apps.refused(shop.client, EMPTY_VIP, 80)
    assert "no healthy upstream" in shop.nodes[0].ztunnel.wait_line("10.96.0.11:80.*error=", since=mark)


@pytest.mark.parametrize("where", ["cart", "web", "plain"])
def test_a_port_on_which_nothing_listens_is_seen_as_a_reset(shop, where):
    assert apps.refused(shop.client, getattr(shop, where).ip, 4444)


@pytest.mark.parametrize("where", ["cart", "web"])
def test_the_end_of_a_stream_travels_each_way_by_itself(shop, where):
    """The client ends its side and still receives; then the other way round."""
    server_may_go_on = []

    def answers_after_the_end(connection, _peer):
        data, end = apps.read_to_end(connection)
        server_may_go_on.append(end)
        connection.sendall(b"got " + data)
        connection.close()

    def ends_first(connection, _peer):
        connection.sendall(b"done")
        connection.shutdown(socket.SHUT_WR)
        server_may_go_on.append(apps.read_to_end(connection))
        connection.close()

    pod = getattr(shop, where)
    pod.serve(7001, answers_after_the_end)
    pod.serve(7002, ends_first)
    with shop.client.connect(pod.ip, 7001) as sock:
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(sock) == (b"got abc", apps.FIN)
    assert server_may_go_on == [apps.FIN]
    with shop.client.connect(pod.ip, 7002) as sock:
        assert apps.read_to_end(sock) == (b"done", apps.FIN)
        sock.sendall(b"still here")
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: len(server_may_go_on) == 2, "the server to read to the end")
    assert server_may_go_on[1] == (b"still here", apps.FIN)


@pytest.mark.parametrize("where", ["cart", "web"])
def test_a_reset_by_the_client_is_a_reset_for_the_server(shop, where):
    ends = []
    pod = getattr(shop, where)
    pod.serve(7003, lambda connection, _peer: (connection.sendall(b"!"), ends.append(apps.how_it_ends(connection))))
    sock = shop.client.connect(pod.ip, 7003)
    assert apps.read_exactly(sock, 1) == b"!"
    apps.reset(sock)
    eventually(lambda: ends, "the server's stream to end")
    assert ends == [apps.RST]


@pytest.mark.parametrize("where", ["cart", "web"])
def test_a_reset_by_the_server_is_a_reset_for_the_client(shop, where):
    pod = getattr(shop, where)
    pod.serve(7004, lambda connection, _peer: (apps.read_exactly(connection, 1), apps.reset(connection)))
    with shop.client.connect(pod.ip, 7004) as sock:
        sock.sendall(b"!")
        assert apps.read_to_end(sock) == (b"", apps.RST)


@pytest.mark.parametrize("size", [1, 16 * 1024, 1024 * 1024 + 1, 32 * 1024 * 1024])
def test_bytes_arrive_complete_and_in_order_both_ways(shop, size):
    payload = os.urandom(min(size, 1 << 20)) * max(1, size >> 20)
    with shop.client.connect(shop.web.ip, 8080, timeout=30) as sock:
        writer = apps.start(lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        data, end = apps.read_to_end(sock)
        writer.join()
    assert end == apps.FIN
    assert data == f"web sees {shop.client.ip}\n".encode() + payload


def test_a_stream_whose_receiver_does_not_read_holds_up_only_itself(shop):
    stalled = []
    shop.web.serve(7005, lambda connection, _peer: stalled.append(connection))
    blocked = []
    for _ in range(4):
        sock = shop.client.connect(shop.web.ip, 7005)
        sock.setblocking(False)
        apps.fill(sock)
        blocked.append(sock)
    assert call(shop.client, shop.web.ip, payload=os.urandom(4 << 20)).startswith("web sees"), "a fifth stream of the same tunnel"
    for sock in blocked:
        sock.close()
    for sock in stalled:
        sock.close()


def test_nothing_goes_over_the_link_in_the_clear(shop, tmp_path):
    secret = b"the quick brown fox " * 64
    with Capture(shop.nodes[1].netns, "eth0", str(tmp_path / "link.pcap")) as link:
        call(shop.client, shop.web.ip, payload=secret)
        call(shop.client, VIP, 80, payload=secret)
    ports = link.ports_with_data()
    assert set(ports) == {15008}, "all of it went through the tunnel's port"
    assert secret[:20] not in link.raw()


def test_the_tunnel_is_tls_from_its_first_byte(shop, tmp_path):
    fresh = shop.nodes[0].pod("fresh")
    shop.nodes[0].write_pods()
    shop.edit()
    fresh.wait_captured()
    with Capture(shop.nodes[1].netns, "eth0", str(tmp_path / "link.pcap")) as link:
        call(fresh, shop.web.ip)
    assert is_tls(link.ports_with_data()[15008])


def test_stock_programs_work_unchanged(shop):
    root = shop.folder
    with open(os.path.join(root, "page.html"), "w") as page:
        page.write("<h1>it works</h1>\n")
    server = Process("python http.server", ["/usr/bin/python3", "-m", "http.server", "8000", "--bind", "::", "--directory", root], netns=shop.web.netns)
    shop.processes.append(server)
    eventually(lambda: 8000 in shop.web.netns.listening_ports(), "the web server to listen")
    assert shop.client.netns.run("curl", "-sS", "--max-time", "10", f"http://{shop.web.ip}:8000/page.html") == "<h1>it works</h1>\n"
    assert shop.client.netns.run("curl", "-sS", "--max-time", "10", f"http://[{shop.web.ip6}]:8000/page.html") == "<h1>it works</h1>\n"
