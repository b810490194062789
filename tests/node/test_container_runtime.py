"""The image, and its programs in containers of Debian's containerd and runc, started as the manifests say, behind a real chain of CNI plugins."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest
import yaml

from harness import manifests
from harness.container_node import ContainerNode
from harness.mesh import BIN, TRUST_DOMAIN, write_file
from harness.process import eventually

TREE = pathlib.Path(__file__).resolve().parents[2]
IMAGE, APPLICATION = "localhost/ztunnel:test", "localhost/application:test"
SECCOMP = TREE / "deploy/seccomp"
CAPABILITIES = {"DAC_OVERRIDE": 1, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21}

sys.path.insert(0, str(TREE / "deploy/image"))
import oci  # noqa: E402
import packages  # noqa: E402


def application_image(folder):
    """What pods run, and what a sandbox is kept open with: three of Debian's programs and their libraries."""
    root = folder / "application"
    for program in ("/usr/bin/sleep", "/usr/bin/socat", "/usr/bin/printenv"):
        for path, source in {program: program, **packages.libraries(program)}.items():
            target = root / str(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(pathlib.Path(source).resolve().read_bytes())
                target.chmod(0o755)
    archive = folder / "application.tar"
    architecture = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    oci.write(archive, APPLICATION, [oci.layer(root, 0)], {"Entrypoint": ["/usr/bin/sleep", "infinity"]}, "1970-01-01T00:00:00Z", architecture, {})
    return archive


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The folder that deploy/image/image.py leaves."""
    out = tmp_path_factory.mktemp("image") / "out"
    done = subprocess.run(["/usr/bin/python3", TREE / "deploy/image/image.py", "--bin", os.path.realpath(BIN), "--out", out, "--name", IMAGE],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def unpacked(image, tmp_path_factory):
    """(the image's files, its configuration), from the archive, as a runtime would have them."""
    root = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(image / "ztunnel.tar") as archive:
        def blob(digest):
            return archive.extractfile("blobs/" + digest.replace(":", "/"))
        index = json.load(archive.extractfile("index.json"))
        manifest = json.load(blob(index["manifests"][0]["digest"]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=blob(layer["digest"])) as files:
                files.extractall(root)
        return root, json.load(blob(manifest["config"]["digest"])), manifest


@pytest.fixture
def node(image, tmp_path):
    with_images = ContainerNode(str(tmp_path), [image / "ztunnel.tar", application_image(tmp_path)], APPLICATION)
    yield with_images
    with_images.close()


def test_the_image_holds_the_programs_with_what_they_need_and_no_shell(unpacked, image):
    root, config, manifest = unpacked
    programs = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o111
                and ".so" not in path.name}
    assert programs == {"usr/local/bin/ztunnel", "usr/local/bin/ztunnel-agent", "usr/local/bin/ztunnel-cni", "usr/sbin/xtables-nft-multi",
                        "usr/sbin/xtables-legacy-multi"}
    assert config["config"]["Entrypoint"] == ["/usr/local/bin/ztunnel"]
    assert config["config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert sum(layer["size"] for layer in manifest["layers"]) < 30 << 20, "MiB to pull"
    for command, said in ((("ztunnel", "version"), "version"), (("ztunnel-agent", "--help"), "--backend"), (("iptables-nft-save", "--version"), "nf_tables"),
                          (("ip6tables-legacy-restore", "--version"), "legacy")):
        done = subprocess.run(["chroot", root, *command], capture_output=True, text=True, env={"PATH": "/usr/local/bin:/usr/sbin"})
        assert said in done.stdout + done.stderr, (command, done)


def test_the_bill_of_materials_names_every_package_and_the_symbols_are_apart(unpacked, image):
    root, _, _ = unpacked
    bill = json.loads((root / "usr/share/doc/ztunnel/sbom.spdx.json").read_text())
    assert bill == json.loads((image / "sbom.spdx.json").read_text()) and bill["spdxVersion"] == "SPDX-2.3"
    named = {package["name"]: package["versionInfo"] for package in bill["packages"]}
    for library in root.rglob("*.so*"):
        package = packages.owner("/" + str(library.relative_to(root)))
        assert packages.package(package).name in named, library
    assert any(name.startswith("libboost") for name in named), "what was compiled in is named as well"
    for terms in root.glob("usr/share/doc/lib*/copyright"):
        assert named[terms.parent.name] in (root / "var/lib/dpkg/status.d" / terms.parent.name).read_text()
    identifiers = [thing["SPDXID"] for thing in bill["packages"] + bill["files"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {r["relatedSpdxElement"] for r in bill["relationships"]} <= set(identifiers)
    for program in ("ztunnel", "ztunnel-agent"):
        notes = subprocess.run(["readelf", "-nS", root / "usr/local/bin" / program], check=True, capture_output=True, text=True).stdout
        build_id = re.search(r"Build ID: ([0-9a-f]+)", notes)[1]
        assert (image / "debug/.build-id" / build_id[:2] / f"{build_id[2:]}.debug").exists()
        assert ".symtab" not in notes and ".debug_info" not in notes


def start_agent(node, name, **options):
    agent = node.pod(name, "istio-system", "istio-cni")
    node.start_sandbox(agent)
    manifests.start(manifests.daemon_set("daemonset/agent/daemonset.yaml"), node, agent, IMAGE, ZTUNNEL_AGENT_VERIFY_INTERVAL="1s", **options)
    node.report_running(agent)
    return agent


def ready_by_its_probe(kind, node, pod):
    probe = manifests.container_of(kind)["readinessProbe"]["exec"]["command"]
    return node.cri.exec(next(iter(pod.containers.values())), *probe)[0] == 0


def write_mesh(node, path):
    """What istiod would tell: pods and their addresses."""
    write_file(str(path), json.dumps({"workloads": [{
        "uid": f"Kubernetes//Pod/{p.namespace}/{p.name}", "name": p.name, "namespace": p.namespace, "serviceAccount": p.account, "trustDomain": TRUST_DOMAIN,
        "workloadIps": [p.ip], "protocol": "HBONE" if p.namespace == "shop" else "TCP", "node": node.name, "network": "", "services": {}}
        for p in node.pods if p.ip]}))


def start_proxy(node, folder):
    """From its manifest, but for where it learns of the mesh: from a file, instead of istiod."""
    proxy = node.pod("ztunnel-x", "istio-system", "ztunnel", labels={"app": "ztunnel"})
    node.start_sandbox(proxy)
    write_mesh(node, folder / "mesh.yaml")
    manifests.start(manifests.daemon_set("daemonset/proxy/daemonset.yaml"), node, proxy, IMAGE, seccomp=SECCOMP / "ztunnel.json",
                    extra={"/etc/mesh": folder}, XDS_ADDRESS="", CA_ADDRESS="", LOCAL_XDS_PATH="/etc/mesh/mesh.yaml", EMBEDDED_CA_DIR="/etc/mesh/ca",
                    RUST_LOG="info,access=debug")
    node.report_running(proxy)
    eventually(lambda: node.run("curl", "-s", "-m", "2", f"http://{proxy.ip}:15021/healthz/ready", check=False) == "ready\n",
               f"the proxy to be ready; it has said\n{node.log(proxy)}", timeout=60)
    return proxy


def application(node, name, namespace="shop"):
    """A pod whose server will say who called. Its sandbox only, as it is when the plugins have answered."""
    pod = node.pod(name, namespace)
    node.start_sandbox(pod)
    return pod


def serve(node, pod):
    node.start_container(pod, "app", APPLICATION, f3=["/usr/bin/socat"], f4=["TCP-LISTEN:8080,fork,reuseaddr", "EXEC:/usr/bin/printenv SOCAT_PEERADDR"],
                         f15={1: {3: 102}, 2: {15: {1: 0}, 16: {1: 1}}})
    node.report_running(pod)


def call(node, client, server):
    return node.run_in(client, "socat", "-T5", "-u", f"TCP:{server.ip}:8080,connect-timeout=5", "-", check=False).strip()


def assert_confined(node, pod, kind):
    """The process has what the manifest says, and not more."""
    security = manifests.container_of(kind)["securityContext"]
    pid = node.pid(pod)
    status = dict(line.split(":\t", 1) for line in node.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line)
    wanted = sum(1 << CAPABILITIES[name] for name in security["capabilities"]["add"])
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == wanted
    assert status["Seccomp"] == "2", "a filter"
    assert status["Uid"].split()[0] == str(security["runAsUser"]) and status["Gid"].split()[0] == str(security["runAsGroup"])
    root = next(line for line in node.run("cat", f"/proc/{pid}/mountinfo").splitlines() if line.split()[4] == "/")
    assert "ro" in root.split()[5].split(","), root


def starts(node, pod):
    try:
        node.start_sandbox(pod)
        return True
    except RuntimeError:
        return False


def rules(node, pod):
    return node.run_in(pod, "nft", "list", "ruleset")


def redirected(node, pod):
    return "redirect" in rules(node, pod)


def test_a_pod_enters_the_mesh_by_the_chain_of_plugins_before_it_starts_and_leaves_with_its_sandbox(node, tmp_path):
    (tmp_path / "mesh/ca").mkdir(parents=True)
    for name, mode in (("shop", "ambient"), ("plain", None), ("istio-system", None)):
        node.api.label_namespace(name, mode)
    agent_kind, proxy_kind = (manifests.daemon_set(f"daemonset/{what}/daemonset.yaml") for what in ("agent", "proxy"))
    # The agent's own pod starts before there is a plugin to ask it.
    agent = start_agent(node, "istio-cni-node-a")
    eventually(lambda: node.plugins() == ["bridge", "portmap", "ztunnel-cni"], f"our plugin in the chain; the agent has said\n{node.log(agent)}", timeout=60)
    eventually(lambda: ready_by_its_probe(agent_kind, node, agent), "the agent's readiness probe", timeout=60)
    assert_confined(node, agent, agent_kind)
    proxy = start_proxy(node, tmp_path / "mesh")
    assert_confined(node, proxy, proxy_kind)

    web, client, outside = application(node, "web"), application(node, "client"), application(node, "outside", "plain")
    for pod in (web, client):
        # No container has run in it yet.
        assert redirected(node, pod)
        assert {"15001", "15006", "15008"} <= set(re.findall(r":(\d+)\s", node.run_in(pod, "ss", "-Htln")))
        assert node.api.status_of(pod) == "enabled"
    assert not redirected(node, outside)
    for pod in (web, client, outside):
        serve(node, pod)
    write_mesh(node, tmp_path / "mesh/mesh.yaml")
    node.wait_log(proxy, "local configuration read")
    eventually(lambda: call(node, client, web) == client.ip, f"the call to arrive; the proxy has said\n{node.log(proxy)}", timeout=60)
    assert call(node, client, outside) == client.ip
    node.wait_log(proxy, f'src.identity="spiffe://{TRUST_DOMAIN}/ns/shop/sa/client"')

    # Its end: addresses and namespace are given back, and the proxy is told.
    left = web.ip
    node.stop(web)
    leases = node.run("ls", "/var/lib/cni/networks/lab").split()
    assert left not in leases and client.ip in leases
    eventually(lambda: f'"{web.uid}"' not in node.run_in(proxy, "curl", "-s", "http://localhost:15000/config_dump"), "the proxy to forget the pod", timeout=60)

    # While no agent answers no pod starts, nor is one let in unprotected; the next agent finds the running ones as they are.
    node.stop(agent)
    assert node.plugins() == ["bridge", "portmap", "ztunnel-cni"], "its DaemonSet is there: another agent follows"
    late = node.pod("late")
    with pytest.raises(RuntimeError, match="ztunnel-cni"):
        node.start_sandbox(late)
    agent = start_agent(node, "istio-cni-node-b", seccomp=SECCOMP / "ztunnel-agent.json", ZTUNNEL_AGENT_BACKEND="iptables")
    eventually(lambda: starts(node, late), f"the pod to start; the agent has said\n{node.log(agent)}", timeout=60)
    for pod in (late, client):
        # By the image's own iptables now, the running pod too.
        eventually(lambda pod=pod: "ISTIO_OUTPUT" in rules(node, pod) and "istio-ambient-nat" not in rules(node, pod), f"iptables' rules in {pod.name}", timeout=60)

    # Its DaemonSet gone, the agent takes its plugin along.
    node.api.daemon_set = "gone"
    node.stop(agent)
    assert node.plugins() == ["bridge", "portmap"]
    assert "ztunnel-cni" not in os.listdir(node.bin)
    assert not redirected(node, application(node, "after", "plain"))
