"""What the proxy's connections to an application take of its pod's ports (docs/limits.md)."""

import socket
import time

from harness import apps
from harness.netns import ESTABLISHED
from harness.process import eventually


def legs_from(pod, server, count, port=8080, address=None):
    """So many connections through the proxies, open; and the ports that they take in the server's pod."""
    known = len(server.servers[0].peers)
    socks = []
    for _ in range(count):
        socks.append(pod.connect(address or server.ip, port))
        socks[-1].sendall(b"x")
        assert apps.read_exactly(socks[-1], 1) == b"x"
    return socks, [peer[1] for peer in server.servers[0].peers[known:]]


def can_listen(pod, port, reuse=True):
    with pod.netns.socket(socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            sock.bind(("0.0.0.0", port))
            sock.listen()
        except OSError:
            return False
        return True


def test_a_program_may_bind_the_ports_of_the_proxys_connections_to_it(mesh):
    node = mesh.nodes[0]
    client, server = node.pod("client"), node.pod("server")
    server.serve(8080)
    mesh.start()
    socks, ports = legs_from(client, server, 60)
    assert len(set(ports)) == 60
    assert sum(can_listen(server, port) for port in ports) == 60, "while they are open"
    for sock in socks:
        sock.close()  # the client closes first: the proxy's side waits in TIME_WAIT
    eventually(lambda: not [s for s in server.netns.tcp_sockets() if s[0] == ESTABLISHED and s[1] in ports], "them to end")
    assert sum(can_listen(server, port) for port in ports) == 60, "when they have ended"


def test_a_client_that_closes_first_does_not_use_up_the_ports_of_the_servers_pod(mesh):
    node = mesh.nodes[0]
    client, server = node.pod("client"), node.pod("server")
    server.serve(8080)
    mesh.start()
    server.netns.sysctl("net.ipv4.ip_local_port_range", "40000 40099")
    for round in range(3):
        for sock in legs_from(client, server, 60)[0]:
            sock.close()
        time.sleep(1.1)  # time is what it is about: a port may be used again after a second


def test_a_program_without_reuseaddr_does_not_get_the_ports_of_open_connections_and_gets_all_others(mesh):
    """What cannot be had, as docs/limits.md says."""
    node = mesh.nodes[0]
    client, server = node.pod("client"), node.pod("server")
    server.serve(8080)
    mesh.start()
    server.netns.sysctl("net.ipv4.ip_local_port_range", "40000 40999")
    socks, ports = legs_from(client, server, 10)
    assert all(40000 <= port <= 40999 for port in ports), "fixed ports outside of that range are safe"
    assert not any(can_listen(server, port, reuse=False) for port in ports)
    assert can_listen(server, 39999, reuse=False)
    assert socks


def test_over_ipv6_the_port_range_is_a_limit_unless_the_pod_lifts_it(mesh):
    """What cannot be had, and what helps, as docs/limits.md says."""
    node = mesh.nodes[0]
    client, server = node.pod("client"), node.pod("server")
    server.serve(8080)
    mesh.start()
    server.netns.sysctl("net.ipv4.ip_local_port_range", "40000 40099")

    def calls():
        """Of 60, those that reach the application; the client closes first."""
        reached = 0
        for _ in range(60):
            try:
                socks, _ = legs_from(client, server, 1, address=server.ip6)
            except (OSError, AssertionError, EOFError):
                continue
            socks[0].close()
            reached += 1
        time.sleep(1.1)
        return reached

    assert calls() == 60
    assert calls() <= 40
    assert "Cannot assign requested address" in node.ztunnel.text()
    server.netns.sysctl("net.ipv4.tcp_tw_reuse", "1")
    assert calls() == calls() == 60
