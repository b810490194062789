"""Kubelet probes enrolled pods from the node: let past the policies of the pod, and nobody else with it."""

import socket
import subprocess
import sys

import pytest

from harness import apps
from harness.process import eventually
from test_kubernetes import cluster, in_the_mesh, redirected, start  # noqa: F401

KUBELET = 4242  # the user that the node's kubelet has here
PROBE, PROBE6 = "169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
ASK = """
import os, socket, sys
os.setuid(int(sys.argv[3]))
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as sock:
        print(sock.recv(100).decode().strip())
except OSError as error:
    print("refused", error)
"""


def probe(node, address, user=KUBELET, port=8080):
    """What a process of the node's hears that asks the pod as kubelet does; empty or "refused" if it is not let in."""
    return subprocess.run([*node.netns.prefix(), sys.executable, "-c", ASK, address, str(port), str(user)], capture_output=True, text=True,
                          timeout=60).stdout.strip()


@pytest.fixture
def strict(cluster):  # noqa: F811
    """A node whose pods are enrolled and let in nobody without an identity."""
    cluster.k8s.processes.add_kubelet(KUBELET)
    cluster.api.label_namespace("shop", "ambient")
    cluster.policy("strict", [[[{"notPrincipals": [{"Presence": []}]}]]], action="Deny")
    for server in cluster.web.servers:
        server.close()
    cluster.web.servers.clear()
    cluster.web.serve(8080, apps.name_and_echo("web"))
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    cluster.node = cluster.nodes[1]
    return cluster


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_kubelet_probes_a_strict_pod_and_no_other_process_of_the_node_gets_in(cluster, backend):  # noqa: F811
    cluster.k8s.processes.add_kubelet(KUBELET)
    cluster.api.label_namespace("shop", "ambient")
    cluster.policy("strict", [[[{"notPrincipals": [{"Presence": []}]}]]], action="Deny")
    cluster.web.servers.pop().close()
    cluster.web.serve(8080, apps.name_and_echo("web"))
    outsider = cluster.nodes[1].pod("outsider", captured=False)
    start(cluster, ZTUNNEL_AGENT_BACKEND=backend)
    in_the_mesh(cluster, cluster.web)
    node = cluster.nodes[1]
    for address, source in ((cluster.web.ip, PROBE), (cluster.web.ip6, PROBE6)):
        assert probe(node, address) == f"web sees {source}"
        # Neither somebody else on the node, nor anybody whom it forwards for.
        assert "web" not in probe(node, address, user=0)
        with pytest.raises((ConnectionError, AssertionError)), outsider.connect(address, 8080) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"w"


def test_probes_go_on_when_a_firewall_is_reloaded_and_when_the_agent_is_away(strict):
    node = strict.node
    mark = node.agent.mark()
    node.netns.run("nft", "flush", "ruleset")
    node.agent.wait_line("rules for kubelet's probes: they are put back", since=mark)
    assert probe(node, strict.web.ip) == f"web sees {PROBE}"
    node.agent.kill()
    assert probe(node, strict.web.ip) == f"web sees {PROBE}"
    # One that comes back replaces the rules in one step: no probe fails.
    table = node.netns.run("nft", "-s", "list", "table", "inet", "istio-ambient-nat")
    strict.k8s.start_agent()
    node.agent.wait_line("serving the pods of the node")
    assert probe(node, strict.web.ip) == f"web sees {PROBE}"
    assert node.netns.run("nft", "-s", "list", "table", "inet", "istio-ambient-nat") == table


def test_a_pod_that_leaves_is_probed_as_any_other_and_one_that_is_gone_leaves_nothing(strict):
    node = strict.node
    strict.api.label_namespace("shop", None)
    in_the_mesh(strict, strict.web, label=False)
    elements = lambda: node.netns.run("nft", "-s", "list", "table", "inet", "istio-ambient-nat")  # noqa: E731
    eventually(lambda: strict.web.ip not in elements(), "the pod's address to go from the set", timeout=20)
    assert probe(node, strict.web.ip).startswith("web sees 1")
    assert PROBE not in probe(node, strict.web.ip)


def test_nobody_gets_past_a_policy_by_calling_himself_kubelet(strict):
    """A pod that takes the address of kubelet's probes for its own."""
    thief = strict.other
    thief.netns.ip("addr", "add", f"{PROBE}/32", "dev", "eth0")
    # Even where the node would lead the answers to the thief.
    port = f"v{thief.ip.rsplit('.', 1)[1]}"
    strict.node.netns.ip("route", "add", f"{PROBE}/32", "dev", port)
    # Its own proxy captures what it sends, unless it is not enrolled.
    strict.api.put("pods", "shop/other", labels={"istio.io/dataplane-mode": "none"})
    eventually(lambda: not redirected(thief), "the thief to be out of the mesh", timeout=20)
    sock = thief.netns.socket()
    with sock:
        sock.settimeout(3)
        sock.bind((PROBE, 0))
        with pytest.raises((TimeoutError, ConnectionError, socket.timeout)):
            sock.connect((strict.web.ip, 8080))
            sock.sendall(b"x")
            assert sock.recv(1) == b""
            raise ConnectionError
