"""A real Envoy at either end of the tunnel: two ends of ours could agree on a mistake."""

import os
import socket
import threading

import pytest

from harness import apps
from harness.handover import count, echoes, replace, talk
from harness.mesh import Mesh
from harness.process import eventually

BULK = 24 << 20


@pytest.fixture
def mesh():
    with Mesh() as two_nodes:
        yield two_nodes


def exchange(sock, payload):
    """Sends, ends its side, and returns what came back and how it ended."""
    writer = apps.start(lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
    answer = apps.read_to_end(sock)
    writer.join()
    return answer


def gives_nothing(connect):
    """The connection ends without a byte: while it connects, or right after (a proxy accepts before it can know)."""
    try:
        with connect() as sock:
            return apps.read_to_end(sock)[0] == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def to_envoy(mesh, start_envoy):
    """Our client pod, and a pod in which Envoy terminates the tunnel: to_envoy(presents, accepts) starts all."""

    def start(presents=None, accepts=None):
        mesh.client = mesh.nodes[0].pod("client")
        mesh.server = mesh.nodes[1].pod("server", captured=False)
        mesh.server.speaks_hbone = True
        mesh.server.serve(8080)
        mesh.start()
        mesh.envoy = start_envoy(mesh, mesh.server, "envoy-server.yaml", 15008, presents or mesh.server.identity, accepts or mesh.client.identity)
        return lambda: mesh.client.connect(mesh.server.ip, 8080, timeout=30)

    return start


@pytest.fixture
def from_envoy(mesh, start_envoy):
    """A pod in which Envoy opens the tunnel, and our server pod: from_envoy(expects, authority) starts all."""

    def start(presents=None, expects=None, port=8080):
        mesh.client = mesh.nodes[0].pod("client", captured=False)
        mesh.server = mesh.nodes[1].pod("server")
        mesh.server.serve(8080, apps.name_and_echo("server"))
        mesh.start()
        mesh.envoy = start_envoy(mesh, mesh.client, "envoy-client.yaml", 9000, presents or mesh.client.identity, expects or mesh.server.identity,
                                 address=mesh.server.ip, authority=f"{mesh.server.ip}:{port}")
        return lambda: mesh.client.connect("127.0.0.1", 9000, timeout=30)

    return start


def test_envoy_accepts_our_connect_and_sees_who_we_are(mesh, to_envoy):
    connect = to_envoy()
    with connect() as sock:
        assert exchange(sock, b"hello") == (b"hello", apps.FIN)
    line = mesh.envoy.wait_line("^CONNECT ")
    assert f"CONNECT {mesh.server.ip}:8080 peer={mesh.client.identity}" in line
    assert f'forwarded=for="{mesh.client.ip}:' in line
    assert "k8s.namespace.name=shop" in line
    assert "status=200" in line


def test_bulk_to_envoy_and_back_is_complete(to_envoy):
    connect = to_envoy()
    payload = os.urandom(BULK)
    with connect() as sock:
        answer, end = exchange(sock, payload)
    assert end == apps.FIN and answer == payload


def test_bulk_from_envoy_and_back_is_complete(mesh, from_envoy):
    connect = from_envoy()
    payload = os.urandom(BULK)
    with connect() as sock:
        answer, end = exchange(sock, payload)
    assert end == apps.FIN and answer == f"server sees {mesh.client.ip}\n".encode() + payload


def test_envoy_calls_us_and_is_known_by_its_certificate(mesh, from_envoy):
    connect = from_envoy()
    with connect() as sock:
        assert exchange(sock, b"hello") == (f"server sees {mesh.client.ip}\nhello".encode(), apps.FIN)
    line = mesh.nodes[1].ztunnel.wait_line('connection complete.*direction="inbound"')
    assert f'src.identity="{mesh.client.identity}"' in line and f"dst.hbone_addr={mesh.server.ip}:8080" in line


@pytest.mark.parametrize("direction", ["to_envoy", "from_envoy"])
def test_many_connections_at_once_each_get_their_own_bytes(direction, request):
    connect = request.getfixturevalue(direction)()
    wrong = []

    def one(number):
        payload = bytes([number]) * 100_000
        with connect() as sock:
            answer, end = exchange(sock, payload)
        if end != apps.FIN or not answer.endswith(payload):
            wrong.append(number)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("direction", ["to_envoy", "from_envoy"])
def test_envoy_does_not_notice_that_our_proxy_is_replaced(mesh, direction, request):
    """In either role of ours: transfers both ways, idle and half closed streams, and new ones on the tunnel that came along."""
    connect, done, failed, talked = request.getfixturevalue(direction)(), threading.Event(), [], []

    def serve(sock, _peer):
        data = sock.recv(65536)
        if data == b"answer late":
            assert sock.recv(1) == b""
            assert done.wait(120)
        while data:
            sock.sendall(data)
            data = sock.recv(65536)
        sock.close()

    mesh.server.servers.pop().close()
    mesh.server.serve(8080, serve)
    ours = mesh.nodes[0 if direction == "to_envoy" else 1]
    idle, half = connect(), connect()
    half.sendall(b"answer late")
    half.shutdown(socket.SHUT_WR)
    echoes(idle, b"before")

    def transfer(seed):
        try:
            talked.append(talk(connect(), seed, done))
        except Exception as error:
            failed.append(repr(error))

    threads = [apps.start(lambda seed=seed: transfer(seed)) for seed in range(4)]
    lines = []
    try:
        for _ in range(3):
            lines.append(replace(mesh, ours)[1])
            echoes(idle, b"still")
            with connect() as sock:
                assert exchange(sock, b"hello") == (b"hello", apps.FIN)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert failed == [] and len(talked) == 4, "\n".join(lines)
    assert apps.read_to_end(half) == (b"answer late", apps.FIN)
    assert exchange(idle, b"to the end") == (b"to the end", apps.FIN)
    assert [count(line, "left") for line in lines] == [0, 0, 0], "\n".join(lines)
    assert all(count(line, "connections") >= 6 for line in lines), "\n".join(lines)
    assert mesh.envoy.alive()
    opened = [line for line in mesh.envoy.text().splitlines() if line.startswith("CONNECT ")]
    if direction == "to_envoy":
        assert all("status=200" in line and "flags=-" in line for line in opened), opened


def test_a_reset_in_our_pod_reaches_the_application_behind_envoy(mesh, to_envoy):
    connect = to_envoy()
    ends = []
    mesh.server.servers[0].close()
    mesh.server.servers.clear()
    mesh.server.serve(8080, lambda connection, _peer: (connection.sendall(b"!"), ends.append(apps.how_it_ends(connection))))
    sock = connect()
    assert apps.read_exactly(sock, 1) == b"!"
    apps.reset(sock)
    eventually(lambda: ends, "the application behind Envoy to notice")  # as an end of stream: Envoy does not pass resets on
    assert "flags=DR" in mesh.envoy.wait_line("^CONNECT "), "for Envoy itself the stream was reset by us"


def test_a_reset_by_our_server_reaches_envoy_as_a_broken_stream(mesh, from_envoy):
    connect = from_envoy()
    mesh.server.servers[0].close()
    mesh.server.servers.clear()
    mesh.server.serve(8080, lambda connection, _peer: (apps.read_exactly(connection, 1), apps.reset(connection)))
    with connect() as sock:
        sock.sendall(b"x")
        assert apps.read_to_end(sock)[0] == b""


def test_nothing_listens_behind_us_and_envoy_is_told_503(mesh, from_envoy):
    connect = from_envoy(port=4444)
    assert gives_nothing(connect)
    assert "4444" in mesh.nodes[1].ztunnel.wait_line("error=.*(refused|Refused)")


def test_a_policy_refuses_envoys_identity(mesh, from_envoy):
    mesh.policy("not-client", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]], action="Deny")
    connect = from_envoy()
    assert gives_nothing(connect)
    mesh.nodes[1].ztunnel.wait_line("explicitly denied by: shop/not-client")


def test_we_refuse_an_envoy_that_presents_another_identity(mesh, to_envoy):
    connect = to_envoy(presents="spiffe://cluster.local/ns/shop/sa/impostor")
    assert gives_nothing(connect)
    assert "spiffe://cluster.local/ns/shop/sa/impostor" in mesh.nodes[0].ztunnel.wait_line("error=.*impostor")


def test_envoy_refuses_us_when_we_are_not_the_client_it_expects(mesh, to_envoy):
    connect = to_envoy(accepts="spiffe://cluster.local/ns/shop/sa/somebody-else")
    assert gives_nothing(connect)
    mesh.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound".*error=')


def test_a_service_is_called_through_an_envoy_waypoint_and_the_pod_knows_the_waypoint(mesh, start_envoy):
    first, second = mesh.nodes
    client, web = first.pod("client"), second.pod("web")
    waypoint = second.pod("waypoint", captured=False)
    waypoint.speaks_hbone = True
    web.serve(8080, apps.name_and_echo("web"))
    vip, name = "10.96.0.20", "waypoint.shop.svc.cluster.local"
    mesh.service("web", vip, 80, 8080, [web])
    mesh.service("waypoint", "10.96.0.21", 15008, 15008, [waypoint])
    mesh.services[0][0]["waypoint"] = {"destination": f"shop/{name}", "hboneMtlsPort": 15008}
    mesh.start()
    envoy = start_envoy(mesh, waypoint, "envoy-waypoint.yaml", 15008, waypoint.identity, client.identity, address=web.ip,
                        authority=f"{web.ip}:8080", backend=web.identity)
    payload = os.urandom(BULK)
    with client.connect(vip, 80, timeout=30) as sock:
        answer, end = exchange(sock, payload)
    assert end == apps.FIN and answer == f"web sees {waypoint.ip}\n".encode() + payload
    line = envoy.wait_line("^CONNECT ")
    assert f"CONNECT {vip}:80 peer={client.identity}" in line
    assert ";host=web.shop.svc.cluster.local" in line and "status=200" in line
    outbound = mesh.nodes[0].ztunnel.wait_line('connection complete.*direction="outbound"')
    assert f"dst.addr={waypoint.ip}:15008 dst.hbone_addr={vip}:80" in outbound and f'dst.identity="{waypoint.identity}"' in outbound
    inbound = mesh.nodes[1].ztunnel.wait_line('connection complete.*direction="inbound"')
    assert f'src.identity="{waypoint.identity}"' in inbound


def test_a_service_of_another_network_is_reached_through_an_envoy_gateway(mesh, start_envoy):
    first, second = mesh.nodes
    client, web = first.pod("client"), second.pod("web")
    gateway = second.pod("gateway", captured=False)
    web.serve(8080, apps.name_and_echo("web"))
    vip, authority = "10.96.0.20", "web.shop.svc.cluster.local:80"
    mesh.service("web", vip, 80, 8080, [web])
    mesh.services[0][0]["subjectAltNames"] = [web.identity]
    plain, environment = web.workload, second.proxy_env
    web.workload = lambda: {**plain(), "network": "net2", "networkGateway": {"destination": f"/{gateway.ip}", "hboneMtlsPort": 15008}}
    second.proxy_env = lambda **changes: {**environment(**changes), "NETWORK": "net2"}
    mesh.start()
    envoy = start_envoy(mesh, gateway, "envoy-gateway.yaml", 15008, gateway.identity, client.identity, backend=web.ip)
    payload = os.urandom(BULK)
    with client.connect(vip, 80, timeout=30) as sock:
        answer, end = exchange(sock, payload)
    assert end == apps.FIN and answer == f"web sees {gateway.ip}\n".encode() + payload
    inbound = mesh.nodes[1].ztunnel.wait_line('connection complete.*direction="inbound"')
    assert f'src.identity="{client.identity}"' in inbound and f"dst.hbone_addr={authority}" in inbound
    mesh.nodes[0].ztunnel.wait_line(f'connection complete.*dst.addr={gateway.ip}:15008 dst.hbone_addr={authority}.*direction="outbound"')
    assert envoy.alive()


def test_an_envoy_behind_our_proxy_reads_our_proxy_header_whole(mesh, start_envoy):
    """A waypoint that is captured itself: Envoy has no part in the tunnel, and knows who called whom all the same."""
    first, second = mesh.nodes
    client, web, waypoint = first.pod("client"), second.pod("web"), second.pod("waypoint")
    web.serve(8080, apps.name_and_echo("web"))
    vip, vip6, name = "10.96.0.20", "fd00:10:96::20", "waypoint.shop.svc.cluster.local"
    mesh.service("web", vip, 80, 8080, [web], vip6=vip6)
    mesh.service("waypoint", "10.96.0.21", 15008, 15008, [waypoint])
    mesh.services[0][0]["waypoint"] = {"destination": f"shop/{name}", "hboneMtlsPort": 15008}
    plain = waypoint.workload
    waypoint.workload = lambda: {**plain(), "applicationTunnel": {"protocol": "PROXY", "port": 15088}}
    mesh.start()
    envoy = start_envoy(mesh, waypoint, "envoy-sandwich.yaml", 15088, waypoint.identity, client.identity, address=web.ip)
    payload = os.urandom(BULK)
    for address, said, seen in ((vip, f"{vip}:80", client.ip), (vip6, f"[{vip6}]:80", client.ip6)):
        mark = envoy.mark()
        with client.connect(address, 80, timeout=30) as sock:
            answer, end = exchange(sock, payload)
        assert end == apps.FIN and answer == f"web sees {waypoint.ip}\n".encode() + payload
        line = envoy.wait_line("^PROXIED ", since=mark)
        assert f"from={seen} to={said} peer={client.identity} host=web.shop.svc.cluster.local" in line
    inbound = mesh.nodes[1].ztunnel.wait_line(f'connection complete.*dst.hbone_addr={web.ip}:8080.*direction="inbound"')
    assert f'src.identity="{waypoint.identity}"' in inbound
