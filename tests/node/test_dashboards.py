"""Dashboards and alerts against a real Prometheus that scrapes two proxies with traffic."""

import json
import os
import pathlib
import subprocess
import urllib.parse

from harness.mesh import write_file
from harness.process import Process, eventually

FOLDER = pathlib.Path(__file__).parents[2] / "deploy/observability"
PORT = 9090


def query(node, expression):
    status, body = node.http(PORT, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    answer = json.loads(body)
    assert status == 200 and answer["status"] == "success", f"{expression}: {body}"
    return answer["data"]["result"]


def test_no_panel_of_a_dashboard_is_empty_and_promtool_finds_nothing_in_a_scrape(mesh):
    first, second = mesh.nodes
    client, stranger, web = first.pod("client"), first.pod("stranger"), second.pod("web")
    web.serve(8080)
    mesh.service("web", "10.96.0.9", 80, 8080, [web])
    mesh.policy("web-for-client", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "client"}]}]]])
    mesh.start()
    write_file(os.path.join(mesh.folder, "prometheus.yml"), json.dumps({
        "global": {"scrape_interval": "1s"}, "rule_files": [str(FOLDER / "alerts.yaml")],
        "scrape_configs": [{"job_name": "ztunnel", "static_configs": [{"targets": ["192.168.77.1:15020", "192.168.77.2:15020"]}]}]}))
    prometheus = Process("prometheus", ["prometheus", f"--config.file={mesh.folder}/prometheus.yml", f"--storage.tsdb.path={mesh.folder}/tsdb",
                                        f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=warn"], {}, first.netns)
    mesh.processes.append(prometheus)

    def talk(pod, address, port):
        try:
            with pod.connect(address, port) as sock:
                sock.sendall(b"x")
                return sock.recv(1) == b"x"
        except ConnectionError:
            return False
    held = client.connect(web.ip, 8080)
    eventually(lambda: first.http(PORT, "/-/ready")[0] == 200, "prometheus", timeout=30)
    # Rates need two scrapes with traffic between them.
    eventually(lambda: len(query(first, 'up{job="ztunnel"} == 1')) == 2, "both targets", timeout=30)

    def scraped():
        assert talk(client, "10.96.0.9", 80)
        assert not talk(stranger, web.ip, 8080)
        return query(first, "sum(rate(istio_tcp_connections_failed_total[30s])) > 0") and query(first, "sum(rate(zt_pool_wait_seconds_count[30s])) > 0")
    eventually(scraped, "rates", timeout=30)
    empty = []
    for path in sorted(FOLDER.glob("dashboard-*.json")):
        panels = json.loads(path.read_text())["panels"]
        assert len(panels) >= 10
        for panel in panels:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*").replace("$namespace", ".*")
                result = query(first, expression)
                if not result or all(value["value"][1] == "NaN" for value in result):
                    empty.append(f"{path.name}: {panel['title']}: {expression}")
    assert empty == []
    for name in ("connections_opened_total", "connections_closed_total"):
        assert query(first, f'istio_tcp_{name}{{reporter="destination"}}')
    groups = json.loads(first.http(PORT, "/api/v1/rules")[1])["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 17
    held.close()
    checked = subprocess.run(["promtool", "check", "metrics"], input=first.http(15020, "/metrics")[1], capture_output=True, text=True)
    # In OpenMetrics, which this is as istio/ztunnel's is, HELP of a counter is without _total; promtool does not find it then.
    said = (checked.stdout + checked.stderr).splitlines()
    complaints = [line for line in said if line.startswith("zt_") and not line.endswith("_total no help text")]
    assert complaints == [], complaints


def test_promtool_finds_the_alert_rules_good_and_their_test_passes():
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
