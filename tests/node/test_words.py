"""What operators see of a connection: the access line and the metrics, in the words of the peer; and what an application is told."""

import re
import socket

from harness import apps
from harness.process import eventually


def talk(client, server, port=8080):
    """An open connection that has carried a byte each way."""
    sock = client.connect(server.ip, port)
    sock.sendall(b"x")
    assert apps.read_exactly(sock, 1) == b"x"
    return sock


def test_the_sockets_that_are_open_are_counted(mesh):
    node = mesh.nodes[0]
    client, server = node.pod("client"), node.pod("server")
    server.serve(8080)
    mesh.start(ZT_LOCAL_DIRECT="false")

    def open_sockets():
        text = node.http(15020, "/metrics")[1]
        return {side: int(re.search(rf'istio_tcp_sockets_open{{reporter="{side}"}} (\d+)', text)[1]) for side in ("source", "destination")}

    assert open_sockets() == {"source": 0, "destination": 0}
    socks = [talk(client, server) for _ in range(3)]
    assert open_sockets() == {"source": 3, "destination": 1}, "one tunnel"
    for sock in socks:
        sock.close()
    eventually(lambda: open_sockets()["source"] == 0, "them to be gone")


def test_an_application_tunnel_is_asked_over_the_loopback_and_told_who_asks(mesh):
    node = mesh.nodes[0]
    client, waypoint = node.pod("client"), node.pod("waypoint")
    seen = []

    def take(connection, peer):
        fixed = apps.read_exactly(connection, 16)
        seen.append((peer[0], fixed + apps.read_exactly(connection, int.from_bytes(fixed[14:], "big"))))
        apps.echo(connection, peer)

    waypoint.serve(15088, take, address="127.0.0.1")
    plain = waypoint.workload
    waypoint.workload = lambda: {**plain(), "applicationTunnel": {"protocol": "PROXY", "port": 15088}}
    mesh.start()
    with client.connect(waypoint.ip, 8080) as sock:
        sock.sendall(b"hello")
        assert apps.read_exactly(sock, 5) == b"hello"
    source, header = seen[0]
    assert source == "127.0.0.1"
    assert header.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11")
    assert header[16:24] == socket.inet_aton(client.ip) + socket.inet_aton(waypoint.ip) and header[26:28] == (8080).to_bytes(2, "big")
    assert client.identity.encode() in header


def test_a_plain_connection_that_fails_and_an_inbound_one_say_so_in_the_words_operators_look_for(mesh):
    node = mesh.nodes[0]
    client, server, outside = node.pod("client"), node.pod("server"), node.pod("outside", captured=False)
    mesh.start()
    mark = node.ztunnel.mark()
    assert apps.refused(client, outside.ip, 9)
    node.ztunnel.wait_line(r'direction="outbound".*error="io error: Connection refused', since=mark)
    assert apps.refused(client, server.ip, 9)
    node.ztunnel.wait_line(r'direction="inbound".*error="connection failed: Connection refused', since=mark)


def test_a_peer_that_closes_a_tunnel_under_open_connections_is_no_error_of_ours(mesh):
    one, two = mesh.nodes
    client, server = one.pod("client"), two.pod("server")
    server.serve(8080, apps.echo_whatever_comes)
    mesh.start()
    sock = talk(client, server)
    mark = one.ztunnel.mark()
    two.ztunnel.kill()
    assert apps.how_it_ends(sock) == apps.RST
    line = one.ztunnel.wait_line(r'connection complete.*direction="outbound"', since=mark)
    assert "\tinfo\t" in line and "error=" not in line


def test_the_proxys_own_pod_is_none_of_those_that_it_serves(mesh):
    node = mesh.nodes[0]
    node.pod("client")
    mesh.start(POD_NAME="ztunnel-x", POD_NAMESPACE="istio-system", SERVICE_ACCOUNT="ztunnel")

    def pods(name):
        return re.search(rf"^{name} (\d+)", node.http(15020, "/metrics")[1], re.M)[1]

    node.write_pods(enrolled=[])
    eventually(lambda: pods("workload_manager_proxies_stopped_total") == "1", "the pod to go")
    assert pods("workload_manager_active_proxy_count") == "0"
    assert pods("workload_manager_proxies_started_total") == "1"


def test_a_headless_service_is_named_when_its_pod_is_called_by_address(mesh):
    node = mesh.nodes[0]
    client, server = node.pod("client"), node.pod("server")
    server.serve(8080)
    mesh.services.append(({"hostname": "db.shop.svc.cluster.local", "name": "db", "namespace": "shop", "vips": [], "ports": {"80": 8080}}, [server]))
    mesh.start()
    mark = node.ztunnel.mark()
    talk(client, server).close()
    assert 'dst.service="db.shop.svc.cluster.local"' in node.ztunnel.wait_line(r'connection complete.*direction="inbound"', since=mark)
