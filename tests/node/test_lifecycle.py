"""Start, readiness, drain, end."""

import signal
import time

import pytest

from harness import apps, hbone, hbone_frames
from harness.process import eventually


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    mesh.web.serve(8080)
    return mesh


def live(pod, address):
    sock = pod.connect(address, 8080)
    sock.sendall(b"x")
    assert apps.read_exactly(sock, 1) == b"x"
    return sock


def accepted(netns, port):
    """Somebody has taken a connection to this port out of the listener's queue: it has an inode."""
    with netns.entered():
        for table in ("tcp", "tcp6"):
            with open(f"/proc/thread-self/net/{table}") as file:
                for line in list(file)[1:]:
                    fields = line.split()
                    if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == "01" and fields[9] != "0":
                        return True
    return False


def test_not_ready_before_the_agent_has_told_of_its_pods(shop):
    shop.write()
    node = shop.nodes[0]
    node.start_ztunnel()
    eventually(lambda: node.http(15021, "/healthz/ready") == (500, "not ready, pending: workload proxy manager\n"), "it to wait for the agent only")
    assert node.http(15021, "/healthz/live") == (200, "live\n"), "live before it is ready"
    node.start_agent()
    node.wait_ready()
    assert node.http(15021, "/healthz/ready") == (200, "ready\n")
    assert node.http(15021, "/healthz/ready", method="POST")[0] == 405
    assert node.http(15021, "/healthz/live") == (200, "live\n")
    assert node.http(15021, "/else")[0] == 404


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "quitquitquit"])
def test_an_idle_proxy_ends_at_once_with_status_0(shop, how):
    shop.start()
    node = shop.nodes[0]
    began = time.monotonic()
    if how == "quitquitquit":
        assert node.http(15000, "/quitquitquit")[0] == 405, "only POST"
        assert node.http(15000, "/quitquitquit", method="POST") == (200, "shutdown now\n")
    else:
        node.ztunnel.signal(getattr(signal, how))
    assert node.ztunnel.wait_exit() == 0
    assert time.monotonic() - began < 4, "nothing to wait for"
    assert "shutdown complete" in node.ztunnel.text()


@pytest.mark.parametrize("which", [0, 1], ids=["the client's node", "the server's node"])
def test_a_drain_lets_live_connections_finish(shop, which):
    shop.start(TERMINATION_GRACE_PERIOD_SECONDS="30")
    node = shop.nodes[which]
    sock = live(shop.client, shop.web.ip)
    node.ztunnel.signal(signal.SIGTERM)
    pod = shop.client if which == 0 else shop.web
    pod.wait_released()
    for _ in range(50):
        sock.sendall(b"y")
        assert apps.read_exactly(sock, 1) == b"y", "it goes on during the drain"
    assert node.ztunnel.alive()
    sock.close()
    assert node.ztunnel.wait_exit() == 0, "and the drain ends with the last connection"


@pytest.mark.parametrize("which", [0, 1], ids=["the client's node", "the server's node"])
def test_a_drain_has_a_deadline_and_cuts_what_is_left_with_a_reset(shop, which):
    shop.start(CONNECTION_TERMINATION_DEADLINE="1s")
    node = shop.nodes[which]
    sock = live(shop.client, shop.web.ip)
    began = time.monotonic()
    node.ztunnel.signal(signal.SIGTERM)
    assert apps.read_to_end(sock) == (b"", apps.RST), "a cut is told as a reset, never as an orderly end"
    assert node.ztunnel.wait_exit() == 0
    assert 0.8 < time.monotonic() - began < 4
    assert "connection closed due to connection drain" in node.ztunnel.text()


def test_what_is_on_its_way_when_a_drain_begins_is_served(shop):
    """A connection in the middle of its handshake, as at a peer that is a long way off, and the request that follows."""
    shop.start()
    node, peer = shop.nodes[1], shop.nodes[0].pod("peer", captured=False)
    arriving = peer.connect(shop.web.ip, 15008)
    eventually(lambda: accepted(shop.web.netns, 15008), "the connection to be accepted")
    node.ztunnel.signal(signal.SIGTERM)
    shop.web.wait_released()
    context = hbone.tls_context(shop.ca_folder, *hbone.certificate(shop.folder, shop.ca_folder, shop.client.identity))
    tunnel = context.wrap_socket(arriving)
    tunnel.sendall(hbone_frames.PREFACE + hbone_frames.frame(hbone_frames.SETTINGS, 0, 0) + hbone_frames.connect(1, f"{shop.web.ip}:8080"))
    answer = hbone_frames.first_frame(tunnel, hbone_frames.HEADERS)
    assert answer.startswith(hbone_frames.STATUS_200)
    tunnel.close()
    assert node.ztunnel.wait_exit() == 0


def test_a_drain_waits_only_so_long_for_peers_that_say_nothing(shop):
    shop.start()
    node, peer = shop.nodes[1], shop.nodes[0].pod("peer", captured=False)
    silent = peer.connect(shop.web.ip, 15008)
    eventually(lambda: accepted(shop.web.netns, 15008), "the connection to be accepted")
    began = time.monotonic()
    node.ztunnel.signal(signal.SIGTERM)
    assert node.ztunnel.wait_exit() == 0
    assert time.monotonic() - began < 4
    silent.close()


def test_a_second_sigint_ends_the_drain(shop):
    shop.start(CONNECTION_TERMINATION_DEADLINE="60s")
    node = shop.nodes[0]
    sock = live(shop.client, shop.web.ip)
    node.ztunnel.signal(signal.SIGINT)
    shop.client.wait_released()
    node.ztunnel.signal(signal.SIGINT)
    assert node.ztunnel.wait_exit(5) == 0
    sock.close()


def test_a_client_drain_sends_new_connections_nowhere_and_old_tunnels_stay(shop):
    """While the server's node drains, the client's proxy opens no stream on the tunnel that was told to go away."""
    shop.start(TERMINATION_GRACE_PERIOD_SECONDS="30")
    old = live(shop.client, shop.web.ip)
    shop.nodes[1].ztunnel.signal(signal.SIGTERM)
    shop.web.wait_released()
    assert apps.refused(shop.client, shop.web.ip, 8080)
    old.sendall(b"z")
    assert apps.read_exactly(old, 1) == b"z"
    old.close()


def test_a_pod_with_too_many_connections_is_refused_more_until_some_end(shop):
    shop.start(ZT_CONNECTIONS_PER_POD="3")
    node = shop.nodes[0]
    held = [live(shop.client, shop.web.ip) for _ in range(3)]
    mark = node.ztunnel.mark()
    with pytest.raises((OSError, AssertionError)):
        live(shop.client, shop.web.ip)
    assert 'error="the pod has too many connections"' in node.ztunnel.wait_line("too many connections", since=mark)
    assert 'limit_reached_total{limit="connections_per_pod"} 1\n' in node.http(15020, "/metrics")[1]
    held[0].sendall(b"y")
    assert apps.read_exactly(held[0], 1) == b"y"
    held.pop().close()

    def one_more():
        try:
            live(shop.client, shop.web.ip).close()
            return True
        except (OSError, AssertionError):
            return False
    eventually(one_more, "a connection to be free again")
