"""A client outside the mesh calls a captured pod in plain TCP, and the proxy calls the application under the client's address: of both, connection tracking in
the pod sees one client and one server. If they had the same port as well, one connection would be taken for the other."""

import socket
import struct

from harness import apps

IP_LOCAL_PORT_RANGE = 51


def kernel_lets_one_ask_for_ports():
    """Linux 6.3 and later."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", 40001 << 16 | 40001))
            return True
        except OSError:
            return False


def test_the_proxy_takes_ports_that_kernels_do_not_choose_for_its_clients(mesh):
    first, second = mesh.nodes
    client, web = first.pod("client", captured=False), second.pod("web")
    web.serve(8080)
    mesh.start()
    for address in (web.ip, web.ip6):
        socks = [client.connect(address, 8080) for _ in range(16)]
        assert all(sock.getsockname()[1] % 2 == 0 for sock in socks), "a kernel's choice"
        for sock in socks:
            sock.sendall(b"beat")
            assert apps.read_exactly(sock, 4) == b"beat"
        peers = [peer for peer in web.servers[0].peers if (client.ip6 if ":" in address else client.ip) in peer[0]]
        assert len(peers) == 16
        if kernel_lets_one_ask_for_ports():
            assert all(peer[1] % 2 == 1 for peer in peers), peers
        for sock in socks:
            sock.close()
