"""Two pods of one node: no tunnel, and everything else as over one."""

import pytest

from harness import apps
from harness.process import eventually
from test_revocation import CUT, Revocations, is_cut, serial


@pytest.fixture
def node(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.stranger, mesh.web = first.pod("client"), first.pod("stranger"), first.pod("web")
    mesh.far = second.pod("far")
    mesh.web.serve(8080)
    mesh.far.serve(8080)
    return mesh


def works(pod, server, port=8080):
    try:
        with pod.connect(server.ip, port) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except ConnectionError:
        return False


def lines(node, start):
    return [line for line in node.http(15020, "/metrics")[1].splitlines() if line.startswith(start)]


def test_two_pods_of_a_node_need_no_tunnel_and_both_sides_say_what_they_would_say_of_one(node):
    node.start()
    first = node.nodes[0]
    mark = first.ztunnel.mark()
    assert works(node.client, node.web)
    done = [line for line in (first.ztunnel.wait_line(f'direction="{side}" zt.path="local" bytes', since=mark) for side in ("outbound", "inbound"))]
    for line in done:
        assert "connection complete" in line
        assert f'src.identity="{node.client.identity}"' in line and f'dst.identity="{node.web.identity}"' in line
        assert f"dst.addr={node.web.ip}:15008" in line and f"dst.hbone_addr={node.web.ip}:8080" in line
        assert "bytes_sent=1 " in line and "bytes_recv=1 " in line
    opened = lines(first, "istio_tcp_connections_opened_total{")
    assert len(opened) == 2
    for line in opened:
        assert 'zt_path="local"' in line and 'connection_security_policy="mutual_tls"' in line
    assert not lines(first, "zt_pool_dials_total")
    assert works(node.client, node.far)
    assert lines(first, "zt_pool_dials_total"), "to another node there is a tunnel"


def test_policies_count_as_over_a_tunnel_and_an_edit_cuts(node):
    node.policy("only-client", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]])
    node.start()
    proxy = node.nodes[0].ztunnel
    mark = proxy.mark()
    assert works(node.client, node.web)
    assert not works(node.stranger, node.web)
    proxy.wait_line("policy rejection: allow policies exist, but none allowed", since=mark)
    proxy.wait_line("http status: 401 Unauthorized", since=mark)
    live = node.client.connect(node.web.ip, 8080)
    live.sendall(b"x")
    assert apps.read_exactly(live, 1) == b"x"
    mark = proxy.mark()
    node.policies.clear()
    node.policy("nobody", [])
    node.edit()
    assert apps.read_to_end(live)[0] == b""
    proxy.wait_line("connection closed due to policy change", since=mark)


def test_an_end_on_either_side_is_one_on_the_other(node):
    node.start()
    first = node.nodes[0]
    live = node.client.connect(node.web.ip, 8080)
    live.sendall(b"x")
    assert apps.read_exactly(live, 1) == b"x"
    apps.reset(live)
    eventually(lambda: len(lines(first, "istio_tcp_connections_closed_total{")) == 2, "both sides to end")
    assert not works(node.client, node.web, 9999), "nobody listens there"


def test_the_application_sees_its_clients_address(node):
    seen = []

    def tell(connection, peer):
        seen.append(peer[0])
        connection.sendall(b"x")

    node.web.serve(8081, tell)
    node.start()
    with node.client.connect(node.web.ip, 8081) as sock:
        assert sock.recv(1) == b"x"
    assert seen[0].removeprefix("::ffff:") == node.client.ip


def test_turned_off_there_is_a_tunnel(node):
    node.start(ZT_LOCAL_DIRECT="false")
    first = node.nodes[0]
    mark = first.ztunnel.mark()
    assert works(node.client, node.web)
    assert "zt.path" not in first.ztunnel.wait_line('direction="inbound"', since=mark)
    assert lines(first, "zt_pool_dials_total")


def test_whom_the_nodes_firewall_keeps_apart_is_kept_apart(node):
    """A NetworkPolicy is enforced where packets leave and enter a pod. Between two sockets of one process there are none."""
    node.start()
    first = node.nodes[0]
    assert works(node.client, node.web)
    first.netns.run("nft", "add table inet cni; add chain inet cni forward { type filter hook forward priority 0; }; "
                           f"add rule inet cni forward ip saddr {node.stranger.ip} ip daddr {node.web.ip} tcp dport 15008 reject with tcp reset")
    mark = first.ztunnel.mark()
    assert not works(node.stranger, node.web)
    first.ztunnel.wait_line(f'src.addr={node.stranger.ip}:.*direction="outbound".*error="io error: Connection refused', since=mark)
    assert not first.ztunnel.matching('direction="inbound"', since=mark), "the other pod hears nothing of it"
    assert works(node.client, node.web)
    # One that comes later counts for what comes later, a moment after, as the tunnels that are there already would live on.
    first.netns.run("nft", f"add rule inet cni forward ip saddr {node.client.ip} ip daddr {node.web.ip} tcp dport 15008 reject with tcp reset")
    eventually(lambda: not works(node.client, node.web), "the later rule to count")
    first.netns.run("nft", "delete", "table", "inet", "cni")
    assert works(node.client, node.web) and works(node.stranger, node.web)
    assert not first.ztunnel.matching("tls handshake"), "who only looked whether there is a way is no failed handshake"


@pytest.mark.parametrize("whose", ["client", "web"])
def test_who_is_revoked_is_cut_on_either_side(node, whose):
    revocations = Revocations(node)
    node.start(CRL_PATH=revocations.path)
    proxy = node.nodes[0].ztunnel
    live, other = (pod.connect(server.ip, 8080) for pod, server in ((node.client, node.web), (node.stranger, node.web)))
    for sock in (live, other):
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"
    mark = proxy.mark()
    revocations.revoke(serial(getattr(node, whose)))
    assert is_cut(live)
    line = proxy.wait_line(f'error="{CUT}"', since=mark)
    assert 'zt.path="local"' in line
    assert f'direction="{"inbound" if whose == "client" else "outbound"}"' in line, "said by who refuses the other's certificate"
    if whose == "client":
        other.sendall(b"y")
        assert apps.read_exactly(other, 1) == b"y", "nobody has revoked the stranger"
    else:
        assert is_cut(other)
    eventually(lambda: works(node.client, node.web), "a new certificate, and they meet again")
