"""Endpoints that cannot be reached: the application's connection goes to another one."""

import pytest

from harness import apps


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client = first.pod("client")
    mesh.good = second.pod("good")
    mesh.good.serve(8080)
    mesh.deaf = second.pod("deaf")  # in the mesh, and nobody listens in it: its proxy answers 503
    mesh.bare = second.pod("bare", captured=False)  # the mesh says that it takes tunnels, and nobody does there
    mesh.bare.speaks_hbone = True
    mesh.service("web", "10.96.0.10", 80, 8080, [mesh.good, mesh.deaf, mesh.bare])
    return mesh


def works(pod, address, port):
    with pod.connect(address, port) as sock:
        sock.sendall(b"x")
        return apps.read_exactly(sock, 1) == b"x"


def counted(node, name):
    text = node.http(15020, "/metrics")[1]
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_a_connection_goes_to_another_endpoint_and_those_that_keep_failing_are_set_aside(shop):
    shop.start()
    proxy = shop.nodes[0].ztunnel
    mark = proxy.mark()
    assert all(works(shop.client, "10.96.0.10", 80) for _ in range(40)), "whichever endpoint has its turn"
    assert "trying another endpoint" in proxy.wait_line("trying another endpoint", since=mark)
    proxy.wait_line("keeps failing and is set aside", since=mark)
    failovers = counted(shop.nodes[0], "zt_connect_failovers_total")
    assert 0 < failovers < 40, "who is set aside is not asked again and again"
    assert counted(shop.nodes[0], "zt_endpoints_set_aside_total") >= 2


def test_what_a_policy_refuses_is_not_tried_elsewhere(shop):
    shop.policy("nobody", [], action="Allow")
    shop.service("strict", "10.96.0.11", 80, 8080, [shop.good, shop.deaf])
    shop.start()
    proxy = shop.nodes[0].ztunnel
    for _ in range(4):
        mark = proxy.mark()
        with pytest.raises((ConnectionError, AssertionError)):
            works(shop.client, "10.96.0.11", 80)
        proxy.wait_line("http status: 401 Unauthorized", since=mark)
    assert counted(shop.nodes[0], "zt_connect_failovers_total") == 0
