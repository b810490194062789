"""ztunnel explain, asked of a proxy that runs and of the file it reads, says what the proxy then does."""

import json
import subprocess

import pytest

from harness import mesh as meshes


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.stranger = first.pod("client"), first.pod("stranger")
    mesh.web = second.pod("web")
    mesh.web.serve(8080)
    mesh.policy("only-client", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]])
    mesh.start()
    return mesh


def explain(node, *words):
    """What `ztunnel explain` answers on that node."""
    done = node.netns.run(meshes.program("ztunnel"), "explain", *words, "-o", "json")
    return json.loads(done)


def reached(pod, server):
    try:
        with pod.connect(server.ip, 8080) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except ConnectionError:
        return False


@pytest.mark.parametrize("of", ["the running proxy", "its file"])
def test_what_is_explained_is_what_happens(shop, of):
    node = shop.nodes[0]
    where = ["--file", shop.file] if of == "its file" else ["--admin", "localhost:15000"]
    for pod in (shop.client, shop.stranger):
        (route,) = explain(node, f"shop/{pod.name}", f"{shop.web.ip}:8080", *where)["routes"]
        assert (route["route"], route["dial"]) == ("hbone", f"{shop.web.ip}:15008")
        (policy,) = route["arrival"]["policies"]
        assert policy["name"] == "shop/only-client"
        assert policy["matches"] == (pod is shop.client)
        assert (route["arrival"]["decision"] == "allow") == reached(pod, shop.web) == (pod is shop.client)
        if pod is shop.stranger:
            (field,) = policy["misses"][0]["fields"]
            assert field == {"field": "serviceAccounts", "is": "shop/stranger", "wanted": "shop/client"}


def test_a_file_with_mistakes_is_refused_by_line_and_a_good_one_is_not(shop, tmp_path):
    program = meshes.program("ztunnel")
    good = subprocess.run([program, "check-config", shop.file], capture_output=True, text=True)
    assert good.returncode == 0 and good.stdout.endswith(", 0 mistakes, 0 warnings\n"), good.stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text("workloads:\n- name: a\n  namespace: shop\n  workloadIps: [1]\n  protocol: X\n")
    done = subprocess.run([program, "check-config", bad], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{bad}:4:17: mistake: " in done.stdout and f"{bad}:5:13: mistake: " in done.stdout
