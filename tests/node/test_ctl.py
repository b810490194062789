"""ztunnelctl on nodes whose proxies and agents run: what it shows is so, and what it says is wrong is what was broken."""

import json
import pathlib
import subprocess
import tarfile

import pytest

from harness import ctl
from harness import istiod as control
from harness import mesh as meshes
from harness.apps import refused
from harness.istiod import ControlledMesh
from harness.process import Process, eventually


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.stranger = first.pod("client"), first.pod("stranger")
    mesh.web = second.pod("web")
    mesh.web.serve(8080)
    mesh.service("web", "10.96.0.80", 80, 8080, [mesh.web])
    mesh.policy("only-client", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]])
    return mesh.start()


def test_every_list_is_there_of_a_running_proxy_of_its_dump_and_through_a_port_forward(shop, tmp_path):
    node = shop.nodes[1]
    with shop.client.connect("10.96.0.80", 80) as sock:
        sock.sendall(b"x" * 5000)
        got = 0
        while got < 5000:
            got += len(sock.recv(5000))
        eventually(lambda: [r for r in ctl.rows(node, "connections") if r.get("bytesSent") == 5000], "the echo in the list of connections")
        (line,) = ctl.rows(node, "connections", "--sort", "bytes", "--pod", "shop/web")
        assert (line["bytesReceived"], line["identity"], line["policy"]) == (5000, shop.client.identity, "shop/only-client")
        assert line["peer"].startswith("shop/client:") and line["protocol"] == "HBONE" and line["ageMillis"] >= 0
        assert "shop/only-client" in ctl.run(node, "connections")
        file = tmp_path / "node.json"
        ctl.run(node, "dump", "--to", file)
        forward = ctl.PortForward(node, 15000)
        program = meshes.program("ztunnelctl")
        for words in (["pods"], ["workloads", "-n", "shop"], ["services"], ["policies"], ["certificates", "--chain"]):
            live = ctl.rows(node, *words)
            assert live, words
            for other in (["--dump", file], ["--admin", f"localhost:{forward.port}"]):
                seen = subprocess.run([program, *words, "-o", "json", *other], capture_output=True, text=True, check=True).stdout
                # Days left are of the moment.
                assert [{k: v for k, v in row.items() if k != "daysLeft"} for row in json.loads(seen)] == \
                       [{k: v for k, v in row.items() if k != "daysLeft"} for row in live]
        forward.close()
    # Whether the agent is there it knows from metrics, which lag a second behind.
    eventually(lambda: ctl.rows(node, "status")["warnings"] == [], "nothing to be warned of")
    status = ctl.rows(node, "status")
    assert status["pods"] == {"up": 1, "all": 1} and status["warnings"] == []
    routes = ctl.rows(node, "explain", "shop/stranger", "10.96.0.80:80")["routes"]
    assert routes[0]["arrival"]["decision"] == "deny"
    assert ctl.run(node, "log", "dns=trace").count("dns=trace") == 1
    assert "dns=trace" not in ctl.run(node, "log", "--reset")


def test_a_refusal_is_told_afterwards_and_while_it_happens(shop):
    first, second = shop.nodes
    tap = Process("tap", [meshes.program("ztunnelctl"), "tap", "--pod", "shop/web", "--every", "0.2"], netns=second.netns)
    shop.processes.append(tap)
    # It prints what comes after its first look: something has to come until it does.
    def seen():
        assert refused(shop.stranger, shop.web.ip, 8080)
        return tap.matching("FAILED  inbound  shop/stranger")
    eventually(seen, "the refusal in the tap", step=0.2)
    tap.wait_line("allow policies exist, but none allowed|not allowed|policy")
    row = ctl.rows(second, "recent", "--failed", "--pod", "shop/web")[0]
    assert row["identity"] == shop.stranger.identity and "polic" in row["error"] and row["reason"] == "policy_denied"
    mark = tap.mark()
    with shop.client.connect(shop.web.ip, 8080) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        tap.wait_line("open .*inbound  shop/client", since=mark)
    tap.wait_line("end .*inbound  shop/client.*1 B sent, 1 B received", since=mark)
    # The other side knows of the refusal too.
    assert [r for r in ctl.rows(first, "recent", "--failed") if r["pod"] == "shop/stranger"]


def test_top_says_who_moves_how_much(shop):
    node = shop.nodes[1]
    # Both by one tunnel.
    with shop.client.connect(shop.web.ip, 8080) as sock, shop.client.connect(shop.web.ip, 8080) as idle:
        idle.sendall(b"x")
        assert idle.recv(1) == b"x"
        top = Process("top", [meshes.program("ztunnelctl"), "top", "--every", "0.5", "--times", "4"], netns=node.netns)
        shop.processes.append(top)
        while top.alive():
            sock.sendall(b"x" * 100_000)
            got = 0
            while got < 100_000:
                got += len(sock.recv(65536))
        assert top.wait_exit() == 0
    moving = top.matching(r"^shop/web +2 .*[KM]iB/s +[\d.]+ [KM]iB/s")
    assert moving, top.text()


def test_check_finds_nothing_wrong_and_then_what_was_broken(shop):
    node = shop.nodes[1]
    # The metric that says whether the agent is there is written anew each few seconds.
    def answered(code, question, verdict):
        done = subprocess.run([*node.netns.prefix(), meshes.program("ztunnelctl"), "check", "-o", "json"], capture_output=True, text=True, timeout=60)
        found = json.loads(done.stdout)
        return found if done.returncode == code and {"question": question, "verdict": verdict}.items() <= next(
            (a for a in found if a["question"] == question), {}).items() else None
    answers = eventually(lambda: answered(0, "node agent", "ok"), "that the agent is there", step=0.3)
    assert [a for a in answers if a["verdict"] == "wrong"] == []
    asked = {a["question"]: a for a in answers}
    assert asked["pod shop/web"]["text"].startswith("redirected by nftables")
    assert asked["node agent"]["verdict"] == "ok" and asked["readiness"]["text"] == "ready"
    # The agent would repair it.
    node.agent.kill()
    shop.web.netns.run("nft", "delete", "table", "inet", "istio-ambient-nat")
    answers = eventually(lambda: answered(1, "node agent", "wrong"), "that the agent is gone", step=0.3)
    found = {a["question"]: a for a in answers if a["verdict"] == "wrong"}
    assert "istio-ambient-nat" in found["pod shop/web"]["text"] and "agent" in found["pod shop/web"]["remedy"]
    text = ctl.run(node, "check", code=1)
    assert "✗ node agent: not connected" in text and "    → start ztunnel-agent" in text
    node.ztunnel.kill()
    gone = ctl.run(node, "check", code=1)
    assert "nothing listens there" in gone and "    → start ztunnel" in gone


def test_check_tells_a_control_plane_that_is_away_and_a_certificate_that_ran_out():
    with ControlledMesh() as mesh:
        pod = mesh.node.pod("client")
        mesh.istiod.addresses(control.workload(pod))
        mesh.istiod.say("lifetime", "5")
        mesh.start()
        program = [*mesh.node.netns.prefix(), meshes.program("ztunnelctl")]

        def wrong():
            done = subprocess.run([*program, "check", "-o", "json"], capture_output=True, text=True, timeout=60)
            return {a["question"]: a for a in json.loads(done.stdout) if a["verdict"] == "wrong"}
        # Metrics lag behind by a second or two.
        eventually(lambda: not wrong(), "nothing to be wrong", timeout=30, step=0.3)
        mesh.istiod.say("down")
        certificate = f"certificate of {pod.identity}"
        found = eventually(lambda: (now := wrong()) and {"control plane", certificate} <= set(now) and now, "both to be told", timeout=60, step=0.3)
        assert "does not answer" in found["control plane"]["text"] and "is istiod up" in found["control plane"]["remedy"]
        assert found[certificate]["remedy"]
        status = subprocess.run([*program, "status"], capture_output=True, text=True, check=True).stdout
        assert "! control plane: " in status and pod.identity in status


def test_a_bug_report_has_what_is_needed_and_no_secret(shop, tmp_path):
    node = shop.nodes[1]
    log = tmp_path / "ztunnel.log"
    log.write_text(node.ztunnel.text())
    archive = tmp_path / "report.tar.gz"
    said = ctl.run(node, "bugreport", "--to", archive, "--log", log)
    assert "config_dump.json" in said and archive.stat().st_mode & 0o77 == 0
    with tarfile.open(archive) as tar:
        files = {member.name.split("/")[1]: tar.extractfile(member).read().decode() for member in tar.getmembers()}
    assert set(files) == {"config_dump.json", "status.txt", "connections.json", "log-levels.txt", "metrics.txt", "ready.txt", "check.txt",
                          "machine.txt", "ztunnel.log"}
    assert json.loads(files["config_dump.json"])["workloads"] and "istio_build" in files["metrics.txt"] and files["ready.txt"] == "ready\n"
    keys = [path.read_text() for path in pathlib.Path(shop.ca_folder).rglob("*") if path.is_file() and "PRIVATE KEY" in path.read_text()]
    assert keys
    for name, text in files.items():
        assert "PRIVATE KEY" not in text, name
        for key in keys:
            assert key.splitlines()[1] not in text, name
