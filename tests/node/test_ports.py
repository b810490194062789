"""What the proxy's connections to an application take of its pod's ports (docs/limits.md)."""

import socket
import time

from harness import apps
from harness.netns import ESTABLISHED
from harness.process import eventually


def legs_from(pod, server, count, port=8080):
    """So many connections through the proxies, open; and the ports that they take in the server's pod."""
    known = len(server.servers[0].peers)
    socks = []
    for _ in range(count):
        socks.append(pod.connect(server.ip, port))
        socks[-1].sendall(b"x")
        assert apps.read_exactly(socks[-1], 1) == b"x"
    return socks, [peer[1] for peer in server.servers[0].peers[known:]]


def can_listen(pod, port):
    with pod.netns.socket(socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
