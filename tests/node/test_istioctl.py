"""Every sub-command of `istioctl ztunnel-config` on a process of ours prints what the real one printed of istio/ztunnel (tests/golden/istioctl)."""

import datetime
import json
import pathlib
import re

import pytest

from harness.apps import read_exactly
from harness.istioctl import Dump
from harness.mesh import Mesh
from harness.process import eventually

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
THEN = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)  # when the golden certificates were valid


def golden(name):
    return (GOLDEN / "istioctl" / name).read_text()


def same_lines(printed, expected):
    """istioctl sorts unstably: what it takes for equal comes in an order of chance."""
    assert printed.splitlines()[0] == expected.splitlines()[0]
    assert sorted(printed.splitlines()) == sorted(expected.splitlines())


def same_objects(printed, expected):
    def key(each):
        return json.dumps(each, sort_keys=True)
    # A member of which the order is chance, too.
    left, right = ([{**each, **({"services": sorted(each["services"])} if "services" in each else {})} for each in json.loads(text)]
                   for text in (printed, expected))
    assert sorted(left, key=key) == sorted(right, key=key)


def test_what_stands_for_istioctl_prints_of_a_recorded_dump_what_the_real_one_printed():
    dump = Dump((GOLDEN / "ztunnel/config_dump-with-connections.json").read_text())
    same_lines(dump.workload(), golden("workload.short.txt"))
    same_lines(dump.workload("shop"), golden("workload-ns-shop.short.txt"))
    same_lines(dump.all(now=THEN), golden("all.short.txt"))
    for printed, name in ((dump.service(), "service.short.txt"), (dump.service("pay"), "service-ns-pay.short.txt"), (dump.policy(), "policy.short.txt"),
                          (dump.policy("shop"), "policy-ns-shop.short.txt"), (dump.certificate(now=THEN), "certificate.short.txt"),
                          (dump.connections(), "connections.short.txt"), (dump.connections("inbound"), "connections-inbound.short.txt"),
                          (dump.workload(output="json"), "workload.json.txt"), (dump.service(output="json"), "service.json.txt"),
                          (dump.policy(output="json"), "policy.json.txt"), (dump.certificate(output="json"), "certificate.json.txt"),
                          (dump.connections(output="json"), "connections.json.txt")):
        assert printed == golden(name), name


def test_workload_service_policy_and_all_print_the_same_of_a_process_that_knows_the_same():
    with Mesh(nodes=1) as mesh:
        (node,) = mesh.nodes
        node.start_agent()
        node.start_ztunnel(LOCAL_XDS_PATH=str(GOLDEN / "ztunnel/config_dump-as-local.yaml"), NODE_NAME="node-a")
        node.wait_ready()
        status, text = node.http(15000, "/config_dump")
        assert status == 200
    dump = Dump(text)
    same_lines(dump.workload(), golden("workload.short.txt"))
    same_lines(dump.workload("shop"), golden("workload-ns-shop.short.txt"))
    assert dump.service() == golden("service.short.txt")
    assert dump.service("pay") == golden("service-ns-pay.short.txt")
    assert dump.policy() == golden("policy.short.txt")
    assert dump.policy("shop") == golden("policy-ns-shop.short.txt")
    same_objects(dump.workload(output="json"), golden("workload.json.txt"))
    same_objects(dump.service(output="json"), golden("service.json.txt"))
    same_objects(dump.policy(output="json"), golden("policy.json.txt"))
    # What it prints whole, it prints of any dump.
    heads = [line for line in dump.all().splitlines() if re.match("NAMESPACE|CERTIFICATE|WORKLOAD", line)]
    assert [head.split()[0] for head in heads] == ["NAMESPACE", "NAMESPACE", "NAMESPACE", "CERTIFICATE", "WORKLOAD"]


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web, mesh.plain = first.pod("client"), second.pod("web"), second.pod("plain", captured=False)
    mesh.web.serve(8080)
    mesh.service("web", "10.96.0.80", 80, 8080, [mesh.web])
    return mesh.start()


def test_certificate_and_connections_print_what_is_so(shop):
    first, second = shop.nodes
    with shop.client.connect("10.96.0.80", 80) as tunnelled, shop.plain.connect(shop.web.ip, 8080) as plain:
        for sock in (tunnelled, plain):
            sock.sendall(b"x")
            read_exactly(sock, 1)
        port, plain_port = tunnelled.getsockname()[1], plain.getsockname()[1]
        client, server = (Dump(node.http(15000, "/config_dump")[1]) for node in (first, second))
    assert [line.split() for line in client.connections().splitlines()[1:]] == [
        ["client.shop", "Outbound", f"client.shop:{port}", "web.shop:15008", "web.shop.svc.cluster.local:80", "HBONE"]]
    # The port of one that came by a tunnel is that of the tunnel.
    lines = [re.sub(r"client\.shop:\d+", "client.shop:PORT", line).split() for line in server.connections("inbound").splitlines()[1:]]
    assert sorted(lines) == sorted([["web.shop", "Inbound", "web.shop:8080", "client.shop:PORT", "web.shop.svc.cluster.local", "HBONE"],
                                    ["web.shop", "Inbound", "web.shop:8080", f"plain.shop:{plain_port}", "TCP"]])
    assert server.connections("outbound").count("\n") == 1
    (of_web,) = [state for state in json.loads(server.connections(output="json")) if state["info"]["name"] == "web"]
    assert of_web["state"] == "Up" and len(of_web["connections"]["inbound"]) == 2
    leaf, root = (line.split() for line in server.certificate().splitlines()[1:])
    assert leaf[:4] == [shop.web.identity, "Leaf", "Available", "true"] and root[1:4] == ["Root", "Available", "true"]
    assert re.fullmatch("[0-9a-f]+", leaf[4])


def test_log_shows_changes_and_resets_levels_as_istioctl_asks_for_it(shop):
    node = shop.nodes[0]

    def asked(query):
        return node.http(15000, f"/logging?{query}", method="POST")
    # Without --level it sends an empty one: that shows and changes nothing.
    status, before = asked("level=")
    assert status == 200 and before.startswith("current log level is ")
    status, after = asked("level=dns:debug,info")
    assert status == 200 and after != before
    shows = asked("level=")[1]
    assert shows == after
    for level in ("off", "error", "warn", "info", "debug", "trace"):  # "warning" and "critical" it maps to these by itself
        status, said = asked(f"level={level}")
        assert status == 200 and said.startswith("current log level is "), level
    status, said = asked("level=info&reset")
    assert status == 200 and "dns" not in said
    assert asked("level=loud")[0] == 400
    eventually(node.ready, "the proxy to go on")
