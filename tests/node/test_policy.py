"""Authorization end to end, and edits of mesh.yaml while connections live."""

import json

import pytest

from harness import apps, mesh as meshes
from harness.mesh import write_file
from harness.process import eventually


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.stranger = first.pod("client"), first.pod("stranger")
    mesh.outsider = first.pod("outsider", captured=False)
    mesh.web = second.pod("web")
    mesh.web.serve(8080)
    mesh.web.serve(8081)
    return mesh


def only(*accounts):
    return [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": a} for a in accounts]}]]]


def allowed(pod, server, port=8080):
    try:  # a refusal may come while it connects, or right after
        with pod.connect(server.ip, port) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except ConnectionError:
        return False


def test_an_allow_policy_lets_in_the_named_account_and_nobody_else(shop):
    shop.policy("only-client", only("client"))
    shop.start()
    mark = shop.nodes[1].ztunnel.mark()
    assert allowed(shop.client, shop.web)
    assert not allowed(shop.stranger, shop.web)
    assert not allowed(shop.outsider, shop.web), "plain TCP has no identity"
    shop.nodes[1].ztunnel.wait_line("policy rejection: allow policies exist, but none allowed", since=mark)


def test_a_deny_policy_names_itself_in_the_log(shop):
    shop.policy("no-8081", [[[{"destinationPorts": [8081]}]]], action="Deny")
    shop.start()
    mark = shop.nodes[1].ztunnel.mark()
    outbound = shop.nodes[0].ztunnel.mark()
    assert allowed(shop.client, shop.web)
    assert not allowed(shop.client, shop.web, 8081)
    shop.nodes[1].ztunnel.wait_line("policy rejection: explicitly denied by: shop/no-8081", since=mark)
    shop.nodes[0].ztunnel.wait_line("http status: 401 Unauthorized", since=outbound)


def test_strict_mode_is_a_deny_of_those_without_identity(shop):
    shop.policy("strict", [[[{"notPrincipals": [{"Presence": []}]}]]], action="Deny")
    shop.start()
    assert allowed(shop.client, shop.web)
    assert not allowed(shop.outsider, shop.web)


@pytest.mark.parametrize("who", ["client", "outsider"], ids=["through the tunnel", "in plain TCP"])
def test_a_policy_edit_cuts_the_established_connection_it_denies(shop, who):
    shop.start()
    pod = getattr(shop, who)
    cut, kept = pod.connect(shop.web.ip, 8080), pod.connect(shop.web.ip, 8081)
    for sock in (cut, kept):
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"
    mark = shop.nodes[1].ztunnel.mark()
    shop.policy("no-8080", [[[{"destinationPorts": [8080]}]]], action="Deny")
    shop.edit()
    assert apps.read_to_end(cut)[0] == b"", "it ends without another byte"
    shop.nodes[1].ztunnel.wait_line("connection closed due to policy change", since=mark)
    kept.sendall(b"y")
    assert apps.read_exactly(kept, 1) == b"y", "a connection that is still allowed goes on"
    shop.policies.clear()
    shop.edit()
    eventually(lambda: allowed(pod, shop.web), "and after the policy is gone, it is open again")


def test_a_broken_edit_is_refused_whole_and_the_last_good_state_serves_on(shop):
    shop.policy("only-client", only("client"))
    shop.start()
    live = shop.client.connect(shop.web.ip, 8080)
    marks = [node.ztunnel.mark() for node in shop.nodes]
    good = shop.text()
    bad = json.loads(good)
    bad["policies"][0]["action"] = "Perhaps"
    write_file(shop.file, json.dumps(bad, indent=1))
    for node, mark in zip(shop.nodes, marks):
        line = node.ztunnel.wait_line(meshes.REFUSED, since=mark)
        assert "Perhaps" in line
    live.sendall(b"x")
    assert apps.read_exactly(live, 1) == b"x"
    assert allowed(shop.client, shop.web)
    assert not allowed(shop.stranger, shop.web)
    shop.policies[0]["rules"] = only("client", "stranger")
    shop.edit()
    eventually(lambda: allowed(shop.stranger, shop.web), "the next good edit counts")


@pytest.mark.parametrize("text, what", [
    ("workloads: [\n", "not YAML"),
    ("workloads:\n- name: x\n  nonsense: 1\n", "an unknown key"),
    ("workloads:\n- name: x\n  namespace: shop\n  workloadIps: [300.0.0.1]\n  services: {}\n", "a bad address"),
    ("policies:\n- {name: p, namespace: shop, scope: Everywhere, action: Deny, rules: []}\n", "an unknown scope"),
], ids=lambda value: value if len(value) < 20 else "")
def test_every_kind_of_broken_file_is_refused_with_its_place(shop, text, what):
    shop.start()
    mark = shop.nodes[0].ztunnel.mark()
    write_file(shop.file, text)
    assert shop.nodes[0].ztunnel.wait_line(meshes.REFUSED, since=mark), what
    assert allowed(shop.client, shop.web)


def test_new_workloads_of_an_edit_are_known_at_once(shop):
    shop.start()
    late = shop.nodes[1].pod("late")
    late.serve(8080)
    shop.nodes[1].write_pods()
    late.wait_captured()
    shop.edit()
    mark = shop.nodes[1].ztunnel.mark()
    # The workers take what was read a moment after the line that says so.
    eventually(lambda: allowed(shop.client, late) and f'dst.identity="{late.identity}"' in shop.nodes[1].ztunnel.text(since=mark), "a tunnel to it")
