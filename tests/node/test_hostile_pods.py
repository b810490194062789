"""Pods that would get past the mesh, and pods whose networks are odd: what they may have, and what nobody else notices."""

import socket

import pytest

from harness import apps
from harness.process import eventually
from test_enrolment import echo_works, enrol, through_tunnel

SO_MARK = 36
OWN_RULES = """
table ip mine {
  chain in { type filter hook input priority 0; policy accept; tcp dport 9999 counter drop; }
  chain out { type nat hook output priority -100; policy accept; ip daddr 192.0.2.7 tcp dport 80 counter redirect to :8080; }
}
"""


def answered(pod, address, mark):
    """Whether a connection that the pod marks is let in."""
    with pod.netns.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        sock.settimeout(apps.TIMEOUT)
        try:
            sock.connect((address, 8080))
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
        except OSError:  # refused, or led nowhere by the pod's own rules
            return False


@pytest.mark.parametrize("mark", [0x539, 0x111])
def test_a_mark_that_a_pod_sets_gets_it_past_no_policy_of_another(mesh, mark):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    near, captured = second.pod("near", captured=False), second.pod("captured")
    mesh.web.serve(8080)
    mesh.policy("strict", [[[{"notPrincipals": [{"Presence": []}]}]]], action="Deny")
    mesh.start()
    assert echo_works(mesh.client, mesh.web.ip)
    # On the same node nothing is between the two but the node.
    assert not answered(near, mesh.web.ip, mark)
    # One that goes around its own proxy has no identity that would let it in.
    assert not answered(captured, mesh.web.ip, mark)
    assert echo_works(captured, mesh.web.ip)


def test_a_pod_with_an_odd_network_is_handled_or_refused_with_a_reason_and_costs_nobody_else(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    no_lo, no_ip6, own_rules = (second.pod(name) for name in ("no-lo", "no-ip6", "own-rules"))
    no_lo.netns.ip("link", "set", "lo", "down")
    no_ip6.netns.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    own_rules.netns.run("nft", "-f", "-", stdin=OWN_RULES)
    rules = own_rules.netns.run("nft", "-s", "list", "table", "ip", "mine")
    for pod in (mesh.web, no_lo, no_ip6, own_rules):
        pod.serve(8080, address="0.0.0.0" if pod is no_ip6 else "::")
    mesh.write()
    for node in mesh.nodes:
        node.write_pods()
        node.start_agent()
        node.start_ztunnel()
    for pod in (mesh.client, mesh.web, no_ip6, own_rules):
        pod.wait_captured()
        if pod is not mesh.client:
            assert through_tunnel(mesh, pod), pod.name
    second.agent.wait_line(f"error.*cannot redirect the pod.*{no_lo.uid}.*is lo up in the pod")
    no_lo.netns.ip("link", "set", "lo", "up")
    no_lo.wait_captured()
    assert through_tunnel(mesh, no_lo)
    # The pod's own rules are the pod's, while it is in the mesh and after.
    assert own_rules.netns.run("nft", "-s", "list", "table", "ip", "mine") == rules
    own_rules.speaks_hbone = False
    enrol(mesh, second, [mesh.web, no_lo, no_ip6])
    eventually(lambda: "istio-ambient" not in own_rules.netns.run("nft", "list", "ruleset"), "the pod to leave", timeout=30)
    assert own_rules.netns.run("nft", "-s", "list", "table", "ip", "mine") == rules
    assert echo_works(mesh.client, own_rules.ip)
