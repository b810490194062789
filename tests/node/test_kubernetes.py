"""Namespaces and pods are labelled, pods come and go, the API server fails: what the agent makes of it, with real traffic."""

import json
import os
import random
import subprocess
import threading
import time

import pytest

from harness.kubernetes import MODE, STATUS, KubernetesNode
from harness.mesh import program
from harness.process import eventually
from harness.sniff import Capture
from test_enrolment import Calls, LiveConnection, echo_works, through_tunnel


@pytest.fixture
def cluster(mesh):
    """A shop whose second node has its pods from a Kubernetes API; nothing is labelled yet."""
    first, second = mesh.nodes
    mesh.client = first.pod("client")
    mesh.web, mesh.other = (second.pod(name, captured=False) for name in ("web", "other"))
    for pod in (mesh.web, mesh.other):
        pod.serve(8080)
    mesh.k8s = KubernetesNode(mesh, second)
    mesh.api = mesh.k8s.api
    mesh.api.put("namespaces", "shop")
    mesh.api.put("namespaces", "kube-system")
    for pod in (mesh.web, mesh.other):
        mesh.k8s.add(pod)
    yield mesh
    mesh.k8s.close()


def start(mesh, **agent):
    mesh.write()
    first, second = mesh.nodes
    first.write_pods()
    first.start_agent()
    mesh.k8s.start_agent(**agent)
    for node in mesh.nodes:
        node.start_ztunnel()
    for node in mesh.nodes:
        node.wait_ready()
    mesh.client.wait_captured()


def redirected(pod):
    return "redirect" in pod.netns.run("nft", "list", "ruleset")


def in_the_mesh(mesh, pod, label=True):
    """Waits for it, and tells the other node what istiod would."""
    mesh.api.wait_status(pod, "enabled" if label else None)
    if label:
        pod.wait_captured()
    else:
        eventually(lambda: not redirected(pod), "the redirection to go", timeout=20)
    if pod.speaks_hbone != label:
        pod.speaks_hbone = label
        mesh.edit()


def tunnelled(mesh, pod, wanted=True):
    eventually(lambda: through_tunnel(mesh, pod) == wanted, f"calls to {pod.name} {'through' if wanted else 'around'} the tunnel")


def test_a_namespace_label_puts_its_pods_into_the_mesh_and_takes_them_out_and_no_connection_breaks(cluster):
    start(cluster)
    assert not redirected(cluster.web)
    assert cluster.api.patches == [], "nothing is said of pods that were never in the mesh"
    before, outward = LiveConnection(cluster.client, cluster.web.ip), LiveConnection(cluster.web, cluster.other.ip)
    before.assert_beats()
    outward.assert_beats()
    cluster.api.label_namespace("shop", "ambient")
    for pod in (cluster.web, cluster.other):
        in_the_mesh(cluster, pod)
    tunnelled(cluster, cluster.web)
    inside = LiveConnection(cluster.client, cluster.web.ip)
    calls = Calls(cluster.client, cluster.other.ip)
    for live in (before, outward, inside):
        live.assert_beats(50)
    cluster.api.label_namespace("shop", None)
    # What is in the tunnel goes on while its pod leaves; new connections go their own way.
    for pod in (cluster.web, cluster.other):
        in_the_mesh(cluster, pod, label=False)
    tunnelled(cluster, cluster.web, wanted=False)
    for live in (before, outward, inside):
        live.assert_beats(50)
        live.close()
    calls.assert_some()
    calls.end()
    assert ("shop/web", "pending") in cluster.api.patches or ("shop/web", "enabled") in cluster.api.patches
    assert cluster.api.patches[-1][1] is None


def test_labels_of_pods_win_over_those_of_namespaces_and_what_must_stay_out_stays_out(cluster):
    second = cluster.nodes[1]
    system, host, sidecar, ended = (second.pod(name, namespace=ns, captured=False) for name, ns in (
        ("dns", "kube-system"), ("host", "shop"), ("old", "shop"), ("job", "shop")))
    cluster.k8s.add(system, labels={MODE: "ambient"})
    cluster.k8s.add(host, labels={MODE: "ambient"}, spec={"hostNetwork": True})
    cluster.k8s.add(sidecar, annotations={"sidecar.istio.io/status": "{}"})
    cluster.k8s.add(ended, phase="Succeeded")
    start(cluster)
    # Before web, which shows that this has been heard when the namespace's label is.
    cluster.api.put("pods", "shop/other", labels={MODE: "none"})
    cluster.api.put("pods", "shop/web", labels={MODE: "ambient"})
    in_the_mesh(cluster, cluster.web)
    assert not redirected(cluster.other)
    cluster.api.label_namespace("shop", "ambient")
    cluster.api.put("pods", "shop/web", labels={})
    late = second.pod("late", captured=False)
    cluster.k8s.add(late)
    in_the_mesh(cluster, late)
    assert redirected(cluster.web)
    for pod in (cluster.other, system, host, sidecar, ended):
        assert not redirected(pod), pod.name
        assert cluster.api.status_of(pod) is None


def test_a_label_that_goes_off_and_on_again_at_once_leaves_the_pod_in_the_mesh(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    live = LiveConnection(cluster.client, cluster.web.ip)
    for _ in range(10):
        cluster.api.label_namespace("shop", None)
        cluster.api.label_namespace("shop", "ambient")
    # The same seen as one event.
    cluster.api.hold_events = True
    cluster.api.label_namespace("shop", None)
    cluster.api.label_namespace("shop", "ambient")
    cluster.api.hold_events = False
    late = cluster.nodes[1].pod("late", captured=False)
    cluster.k8s.add(late)
    in_the_mesh(cluster, late)  # whatever came before has been dealt with
    in_the_mesh(cluster, cluster.web)
    tunnelled(cluster, cluster.web)
    live.assert_beats(50)
    live.close()


def test_an_api_server_that_forgets_ends_watches_and_rotates_tokens_costs_nothing(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    live = LiveConnection(cluster.client, cluster.web.ip)
    for forget in (False, True):
        cluster.api.hold_events = True
        pod = cluster.nodes[1].pod(f"late-{'forgotten' if forget else 'resumed'}", captured=False)
        cluster.k8s.add(pod)
        cluster.api.hold_events = False
        cluster.api.end_watches(forget=forget)
        in_the_mesh(cluster, pod)
    cluster.api.token = "another-token"
    mark = cluster.nodes[1].agent.mark()
    cluster.api.end_watches()
    cluster.nodes[1].agent.wait_line("401 Unauthorized", since=mark)
    with open(cluster.api.folder + "/token", "w") as file:
        file.write("another-token")
    cluster.api.fail_patches = 2
    rotated = cluster.nodes[1].pod("rotated", captured=False)
    cluster.k8s.add(rotated)
    in_the_mesh(cluster, rotated)
    live.assert_beats(50)
    live.close()
    assert len([p for p in cluster.api.patches if p == ("shop/rotated", "enabled")]) >= 1


def test_the_agent_restarts_and_running_pods_keep_working_and_who_left_meanwhile_leaves(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    for pod in (cluster.web, cluster.other):
        in_the_mesh(cluster, pod)
    live = LiveConnection(cluster.client, cluster.web.ip)
    cluster.nodes[1].agent.kill()
    live.assert_beats()
    assert echo_works(cluster.client, cluster.web.ip)
    cluster.api.put("pods", "shop/other", labels={MODE: "none"})
    patches = len(cluster.api.patches)
    cluster.k8s.start_agent()
    cluster.nodes[1].wait_ready()
    in_the_mesh(cluster, cluster.other, label=False)
    live.assert_beats(50)
    live.close()
    assert redirected(cluster.web)
    tunnelled(cluster, cluster.web)
    assert {key for key, _ in cluster.api.patches[patches:]} == {"shop/other"}, "what holds is not said again"


STARTS = int(os.environ.get("ZT_STARTS", "6"))  # more of them by hand


def test_agent_and_proxy_may_start_in_any_order_and_at_any_distance(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    node = cluster.nodes[1]
    for turn in range(STARTS):
        node.agent.kill()
        node.ztunnel.kill()
        starts = [cluster.k8s.start_agent, node.start_ztunnel]
        for begin in starts if turn % 2 else reversed(starts):
            begin()
            # The distance is what is tried; nothing is waited for.
            time.sleep((0, 0.2, 1, 3)[turn // 2 % 4])
        node.wait_ready()
        cluster.web.wait_captured()
        tunnelled(cluster, cluster.web)
        assert cluster.api.status_of(cluster.web) == "enabled"
    assert ("shop/web", None) not in cluster.api.patches


KILLS = int(os.environ.get("ZT_KILLS", "4"))  # more of them by hand


def test_an_agent_that_is_killed_at_any_moment_breaks_no_connection_and_lets_nothing_out_in_the_clear(cluster, tmp_path):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    for pod in (cluster.web, cluster.other):
        in_the_mesh(cluster, pod)
    live, calls, chance = LiveConnection(cluster.client, cluster.web.ip), Calls(cluster.client, cluster.web.ip), random.Random()
    with Capture(cluster.nodes[1].netns, "eth0", str(tmp_path / "link.pcap")) as link:
        for turn in range(KILLS):
            cluster.api.put("pods", "shop/other", labels={MODE: "none"} if turn % 2 == 0 else {})
            # The moment is what is tried; nothing is waited for.
            time.sleep(chance.uniform(0, 0.4))
            cluster.nodes[1].agent.kill()
            cluster.k8s.start_agent()
        cluster.api.put("pods", "shop/other", labels={})
        in_the_mesh(cluster, cluster.other)
        cluster.nodes[1].wait_ready()
        live.assert_beats(50)
        calls.assert_some()
    calls.end()
    live.close()
    assert set(link.ports_with_data()) == {15008}
    assert cluster.api.status_of(cluster.web) == "enabled"


def test_a_pod_that_left_while_no_agent_ran_and_cannot_be_found_is_looked_for(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.other)
    cluster.nodes[1].agent.kill()
    cluster.api.put("pods", "shop/other", labels={MODE: "none"})
    cluster.k8s.processes.end(cluster.k8s.pids[cluster.other.uid])
    cluster.k8s.start_agent()
    cluster.nodes[1].agent.wait_line(f"warn.*cannot find the namespace of a pod that was in the mesh.*{cluster.other.uid}")
    assert cluster.api.status_of(cluster.other) == "enabled", "its rules are still there"
    cluster.k8s.processes.add(cluster.other.uid, cluster.other.netns)
    in_the_mesh(cluster, cluster.other, label=False)


def test_pods_that_the_api_shows_without_addresses_are_kept(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    live = LiveConnection(cluster.client, cluster.web.ip)
    cluster.nodes[1].agent.kill()
    cluster.api.put("pods", "shop/web", status={"podIP": "", "podIPs": []})
    cluster.k8s.start_agent()
    cluster.nodes[1].wait_ready()
    live.assert_beats(50)
    tunnelled(cluster, cluster.web)
    assert cluster.api.status_of(cluster.web) == "enabled"
    mark = cluster.nodes[1].agent.mark()
    cluster.api.put_pod(cluster.web)
    cluster.nodes[1].agent.wait_line(f"the pod's network namespace is there|pod enrolled.*{cluster.web.uid}", since=mark)
    live.assert_beats(50)
    live.close()


def test_a_pod_is_pending_until_a_proxy_takes_it_and_has_no_plaintext_meanwhile(cluster):
    cluster.api.label_namespace("shop", "ambient")
    cluster.write()
    cluster.nodes[0].write_pods()
    cluster.nodes[0].start_agent()
    cluster.nodes[0].start_ztunnel()
    cluster.k8s.start_agent()
    cluster.api.wait_status(cluster.web, "pending")
    assert redirected(cluster.web)
    with pytest.raises((ConnectionError, AssertionError)):
        echo_works(cluster.web, cluster.other.ip)
    cluster.nodes[1].start_ztunnel()
    cluster.nodes[1].wait_ready()
    in_the_mesh(cluster, cluster.web)


def test_a_pod_that_cannot_be_found_costs_itself_alone_and_comes_when_it_can(cluster):
    cluster.api.label_namespace("shop", "ambient")
    lost = cluster.nodes[1].pod("lost", captured=False)
    cluster.api.put_pod(lost)  # no process of it is there
    cluster.api.put("pods", "shop/broken", spec={"nodeName": cluster.nodes[1].name, "hostNetwork": "perhaps"})
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    cluster.nodes[1].agent.wait_line(f"error.*{lost.uid}.*no process of the pod")
    cluster.nodes[1].agent.wait_line("error.*shop/broken.*hostNetwork is no boolean")
    assert cluster.api.status_of(lost) is None
    cluster.k8s.processes.add(lost.uid, lost.netns)
    in_the_mesh(cluster, lost)


def test_a_process_that_has_entered_another_pods_namespace_gives_nothing_away(cluster):
    cluster.api.label_namespace("shop", "ambient")
    thief = cluster.nodes[1].pod("thief", captured=False)
    cluster.k8s.processes.add(thief.uid, cluster.web.netns)
    cluster.api.put_pod(thief)
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    assert cluster.api.status_of(thief) is None
    cluster.k8s.processes.add(thief.uid, thief.netns)
    in_the_mesh(cluster, thief)
    tunnelled(cluster, cluster.web)


def test_a_pod_whose_address_goes_to_another_at_once_is_not_taken_for_it(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    for turn in range(3):
        old = cluster.web
        cluster.k8s.processes.end(cluster.k8s.pids[old.uid])
        cluster.api.delete("pods", "shop/web")
        number = int(old.ip.rsplit(".", 1)[1])
        cluster.nodes[1].netns.ip("link", "del", f"v{number}")
        old.delete()
        cluster.nodes[1]._made = number - 2
        cluster.web = cluster.nodes[1].pod("web", captured=False)
        assert cluster.web.ip == old.ip
        cluster.web.speaks_hbone = True  # as the mesh has it already
        cluster.web.uid = f"00000000-0000-4000-8000-99990000000{turn}"
        cluster.web.serve(8080)
        cluster.k8s.add(cluster.web)
        in_the_mesh(cluster, cluster.web)
        tunnelled(cluster, cluster.web)
    assert cluster.nodes[1].agent.alive()


def test_annotations_of_a_pod_change_what_is_captured(cluster):
    cluster.api.label_namespace("shop", "ambient")
    cluster.api.put("pods", "shop/web", annotations={"ambient.istio.io/bypass-inbound-capture": "true", "ambient.istio.io/dns-capture": "off"})
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    assert "15006" not in cluster.web.netns.run("nft", "list", "ruleset")
    assert "15006" in cluster.other.netns.run("nft", "list", "ruleset")
    cluster.nodes[1].agent.wait_line("warn.*shop/web.*dns-capture: 'off' is neither true nor false")
    cluster.api.put("pods", "shop/web", annotations={STATUS: "enabled"})
    eventually(lambda: "15006" in cluster.web.netns.run("nft", "list", "ruleset"), "an edit of the annotations to count")


def cni_add(cluster, pod, command="ADD", **config):
    """What a container runtime does once it has made the pod's network: (exit code, output)."""
    folder = os.path.dirname(cluster.k8s.cni_socket)
    done = subprocess.run([program("ztunnel-cni")], capture_output=True, text=True, timeout=30, env={
        "CNI_COMMAND": command, "CNI_NETNS": pod.netns.path, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name}"},
        input=json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "ztunnel-cni", "cni_agent_run_dir": folder,
                          "exclude_namespaces": ["kube-system"], **config,
                          "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": f"{pod.ip}/32"}, {"address": f"{pod.ip6}/128"}]}}))
    return done.returncode, done.stdout


@pytest.fixture
def sandbox(cluster):
    """A pod whose network has just been made: no process runs in it, and the API knows no address of it."""
    cluster.k8s.cni_socket = os.path.join(cluster.folder, "pluginevent.sock")
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    in_the_mesh(cluster, cluster.web)
    pod = cluster.nodes[1].pod("new", captured=False)

    def announce():
        cluster.api.put("pods", "shop/new", uid=pod.uid, spec={"nodeName": cluster.nodes[1].name, "serviceAccountName": "new"}, status={"phase": "Pending"})
    pod.announce = announce
    cluster.edit()
    return pod


def test_a_pod_starts_when_it_is_redirected_and_a_proxy_serves_it_and_not_before(cluster, sandbox):
    sandbox.announce()
    code, out = cni_add(cluster, sandbox)
    assert code == 0, out
    assert json.loads(out)["ips"][0]["address"] == f"{sandbox.ip}/32"
    # Now, and not eventually: this is where the pod's first process starts.
    assert redirected(sandbox)
    assert {15001, 15006, 15008} <= sandbox.netns.listening_ports()
    assert calls_by_tunnel(cluster, sandbox)
    cluster.api.wait_status(sandbox, "enabled")


def calls_by_tunnel(mesh, pod):
    mark = mesh.nodes[1].ztunnel.mark()
    assert echo_works(pod, mesh.web.ip)
    return "dst.hbone_addr" in mesh.nodes[1].ztunnel.wait_line('connection complete.*direction="outbound"', since=mark)


def test_a_pod_that_the_watch_shows_late_is_waited_for(cluster, sandbox):
    agent = cluster.nodes[1].agent
    mark = agent.mark()

    def announce():
        agent.wait_line("the plugin asks for a pod.*shop/new", since=mark)
        sandbox.announce()
    late = threading.Thread(target=announce)
    late.start()
    code, out = cni_add(cluster, sandbox)
    late.join()
    assert code == 0, out
    assert redirected(sandbox)


def test_a_pod_does_not_start_without_proxy_or_agent_unless_it_is_none_of_the_meshs(cluster, sandbox):
    sandbox.announce()
    outside = cluster.nodes[1].pod("outside", captured=False)
    cluster.k8s.add(outside, labels={MODE: "none"})
    cluster.nodes[1].ztunnel.kill()
    code, out = cni_add(cluster, sandbox)
    assert code == 1
    assert "no proxy is connected" in json.loads(out)["details"]
    assert cni_add(cluster, outside)[0] == 0
    assert not redirected(outside)
    assert cni_add(cluster, sandbox, "STATUS")[0] == 0
    cluster.nodes[1].agent.kill()
    code, out = cni_add(cluster, sandbox)
    assert code == 1
    assert "the node agent could not be contacted" in json.loads(out)["msg"]
    assert cni_add(cluster, sandbox, "STATUS")[0] == 1
    assert cni_add(cluster, sandbox, "DEL")[0] == 0
    system = cluster.nodes[1].pod("dns", namespace="kube-system", captured=False)
    assert cni_add(cluster, system)[0] == 0
    # The runtime tries again until it works.
    cluster.k8s.start_agent()
    cluster.nodes[1].start_ztunnel()
    cluster.nodes[1].wait_ready()
    eventually(lambda: cni_add(cluster, sandbox)[0] == 0, "the pod to start", timeout=30)
    assert redirected(sandbox)


def test_the_nodes_own_network_is_never_taken_for_a_pods(cluster, sandbox):
    sandbox.announce()
    sandbox.netns, own = cluster.nodes[1].netns, sandbox.netns
    try:
        code, out = cni_add(cluster, sandbox)
        assert code == 1
        assert "the node's own network namespace" in json.loads(out)["details"]
        assert not redirected(sandbox)
    finally:
        sandbox.netns = own


class HostFolders:
    """The node's folders of CNI programs and configurations, with another plugin's configuration in them."""

    def __init__(self, folder):
        self.bin, self.conf_folder = (os.path.join(folder, name) for name in ("cni-bin", "cni-net.d"))
        self.conf, self.program = os.path.join(self.conf_folder, "10-lab.conflist"), os.path.join(self.bin, "ztunnel-cni")
        os.makedirs(self.bin)
        os.makedirs(self.conf_folder)
        self.rewrite()

    def rewrite(self):
        with open(self.conf, "w") as file:
            json.dump({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "bridge", "bridge": "br0"}]}, file)

    def types(self):
        with open(self.conf) as file:
            return [plugin["type"] for plugin in json.load(file)["plugins"]]

    def settings(self):
        return {"ZTUNNEL_AGENT_CNI_CONF_FOLDER": self.conf_folder, "ZTUNNEL_AGENT_CNI_BIN_FOLDER": self.bin,
                "ZTUNNEL_AGENT_CNI_PROGRAM": program("ztunnel-cni")}

    def wait_installed(self):
        eventually(lambda: self.types() == ["bridge", "ztunnel-cni"] and os.access(self.program, os.X_OK), "the plugin on the node", timeout=20)


def test_the_agents_metrics_say_what_it_does(cluster):
    cluster.api.label_namespace("shop", "ambient")
    start(cluster)
    for pod in (cluster.web, cluster.other):
        in_the_mesh(cluster, pod)
    node = cluster.nodes[1]
    assert node.http(15014, "/healthz")[0] == node.http(15014, "/readyz")[0] == 200
    status, text = node.http(15014, "/metrics")
    assert status == 200
    for line in ('nodeagent_reconcile_events_total{type="add"} 2', "ztunnel_connected 1", 'ztunnel_agent_pods{state="enrolled"} 2',
                 'ztunnel_agent_backend_info{backend="nftables"} 1', "ztunnel_agent_probed_addresses 4"):
        assert line in text.splitlines(), text
    cluster.web.netns.run("nft", "flush", "ruleset")
    eventually(lambda: "ztunnel_agent_repairs_total 1" in node.http(15014, "/metrics")[1].splitlines(), "the repair to be counted", timeout=20)
    assert node.http(15014, "/nonsense")[0] == 404


def test_the_agent_is_not_ready_before_the_plugin_is_on_the_node(cluster):
    host = HostFolders(cluster.folder)
    os.unlink(host.conf)
    cluster.write()
    cluster.k8s.start_agent(**host.settings())
    cluster.nodes[1].agent.wait_line("has no CNI configuration yet")
    assert probe(cluster) == 1
    host.rewrite()
    host.wait_installed()
    eventually(lambda: probe(cluster) == 0, "the agent to be ready")


def probe(cluster):
    return subprocess.run([program("ztunnel-agent"), "probe", "--cni-socket", cluster.k8s.cni_socket], capture_output=True).returncode


def test_the_plugin_is_put_onto_the_node_when_it_has_whom_to_ask_and_stays_there(cluster):
    host = HostFolders(cluster.folder)
    cluster.api.token = "not-yet"
    cluster.write()
    cluster.k8s.start_agent(**host.settings())
    cluster.nodes[1].agent.wait_line("401 Unauthorized")
    assert host.types() == ["bridge"], "nobody could answer it"
    assert probe(cluster) == 1
    cluster.api.token = "token-of-the-agent"
    host.wait_installed()
    assert probe(cluster) == 0
    for _ in range(3):
        host.rewrite()
        host.wait_installed()


@pytest.mark.parametrize("daemon_set, stays", [("there", True), ("refused", True), ("gone", False), ("being deleted", False)])
def test_the_plugin_goes_with_the_agents_daemon_set_and_not_with_the_agent(cluster, daemon_set, stays):
    host = HostFolders(cluster.folder)
    cluster.write()
    cluster.k8s.start_agent(**host.settings())
    host.wait_installed()
    cluster.api.daemon_set = daemon_set
    cluster.nodes[1].agent.signal(15)
    assert cluster.nodes[1].agent.wait_exit() == 0
    assert host.types() == (["bridge", "ztunnel-cni"] if stays else ["bridge"])
    assert os.path.exists(host.program) == stays


def test_an_agent_that_ends_while_the_api_server_is_away_leaves_the_plugin(cluster):
    host = HostFolders(cluster.folder)
    cluster.write()
    cluster.k8s.start_agent(**host.settings())
    host.wait_installed()
    cluster.api.close()
    cluster.nodes[1].agent.signal(15)
    assert cluster.nodes[1].agent.wait_exit() == 0
    assert host.types() == ["bridge", "ztunnel-cni"]
