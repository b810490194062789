"""What is wrong with the start is said: what, where, and what to do about it. Never with exit status 0."""

import os
import signal
import socket
import subprocess

import pytest

from harness.mesh import program, write_file
from harness.process import Process, eventually


@pytest.fixture
def node(mesh):
    mesh.write()
    return mesh.nodes[0]


def fails(node, **changes):
    node.start_ztunnel(**changes)
    assert node.ztunnel.wait_exit() not in (0, -6, -11), node.ztunnel.text()
    return node.ztunnel.text()


@pytest.mark.parametrize("name, value", [
    ("PROXY_MODE", "sometimes"),
    ("ZTUNNEL_WORKER_THREADS", "many"),
    ("POOL_MAX_STREAMS_PER_CONNECTION", "-1"),
    ("POOL_UNUSED_RELEASE_TIMEOUT", "soon"),
    ("CONNECTION_TERMINATION_DEADLINE", "5 parsecs"),
    ("KEEPALIVE_ENABLED", "yes"),
    ("IPV6_ENABLED", "1"),
    ("HTTP2_FRAME_SIZE", "x"),
])
def test_a_wrong_environment_value_is_named(node, name, value):
    said = fails(node, **{name: value})
    assert name in said and value in said, said


@pytest.mark.parametrize("name, value", [("LOG_FORMAT", "xml"), ("RUST_LOG", "loud")])
def test_a_wrong_value_of_what_is_only_for_people_is_warned_of(node, name, value):
    node.start_ztunnel(**{name: value})
    assert value in node.ztunnel.wait_line(rf"\twarn\t.*{name}")


def test_a_crash_leaves_no_core_file_with_keys(node, tmp_path):
    def dumps_core(name, command, env, started):
        folder = tmp_path / name
        folder.mkdir()
        process = Process(name, ["prlimit", "--core=unlimited", *command], env, node.netns, cwd=folder)
        node.mesh.processes.append(process)
        started(process)
        process.signal(signal.SIGABRT)  # sanitizers catch SIGSEGV
        how = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert how.si_status == signal.SIGABRT
        return how.si_code == os.CLD_DUMPED

    # Where the machine writes cores at all, an ordinary program's is written; otherwise the second check alone proves little.
    with open("/proc/sys/kernel/core_pattern") as pattern:
        if pattern.read().strip()[:1] not in ("", "|"):
            assert dumps_core("control", ["sh", "-c", "echo up; exec sleep 100"], {}, lambda p: p.wait_line("up"))
    assert not dumps_core("ztunnel", [program("ztunnel"), "proxy"], node.proxy_env(), lambda p: p.wait_line("record layer ready"))


def test_a_missing_workload_file_is_named(node):
    said = fails(node, LOCAL_XDS_PATH="/nonexistent/mesh.yaml")
    assert "/nonexistent/mesh.yaml" in said and "No such file" in said


def test_a_broken_workload_file_is_refused_with_line_and_column(node):
    write_file(node.mesh.file, "workloads:\n- name: x\n  namespace: shop\n  workloadIps: [10.1.1.1]\n  services: {}\n  nonsense: 1\n")
    said = fails(node)
    assert f"{node.mesh.file}:6:3" in said and "nonsense" in said


@pytest.fixture
def loading(node):
    """A proxy that is reading a large file."""
    write_file(node.mesh.file, "workloads:\n" + "".join(
        f"- {{uid: w{i}, name: w{i}, namespace: shop, workloadIps: [20.{i >> 16}.{i >> 8 & 255}.{i & 255}], services: {{}}}}\n" for i in range(150_000)))
    node.start_ztunnel()
    eventually(lambda: node.http(15000, "/config_dump")[0] == 200, "an answer of the admin server")
    return node


def test_who_asks_while_a_large_workload_file_is_read_is_answered(loading):
    status, body = loading.http(15000, "/config_dump")
    assert status == 200 and '"uid"' not in body, "the file was read before anybody got an answer"
    loading.ztunnel.wait_line("Task 'state manager' complete", timeout=60)
    assert loading.http(15000, "/config_dump")[1].count('"uid"') == 150_000


def test_a_proxy_can_be_ended_while_it_reads_a_large_workload_file(loading):
    loading.ztunnel.signal(signal.SIGTERM)
    assert loading.ztunnel.wait_exit() == 0
    assert "local configuration" not in loading.ztunnel.text()


def test_dedicated_mode_without_its_workload_says_what_to_set(node):
    assert "PROXY_WORKLOAD_INFO" in fails(node, PROXY_MODE="dedicated")


@pytest.mark.parametrize("port", [15000, 15020, 15021])
def test_a_taken_port_is_named(node, port):
    with node.netns.socket(socket.AF_INET6) as taken:
        taken.bind(("::", port))
        taken.listen()
        said = fails(node)
    assert f":{port}" in said and "in use" in said.lower()


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_a_taken_port_ends_a_dedicated_proxy(node, port):
    node.mesh.extra_workloads.append({"uid": "w", "name": "w", "namespace": "n", "serviceAccount": "s", "workloadIps": ["10.9.9.9"], "services": {}})
    node.mesh.write()
    with node.netns.socket(socket.AF_INET6) as taken:
        taken.bind(("::", port))
        taken.listen()
        said = fails(node, PROXY_MODE="dedicated", PROXY_WORKLOAD_INFO="n/w/s", INPOD_UDS=None)
    assert f":{port}" in said and "in use" in said.lower()


@pytest.mark.parametrize("capability, name", [("net_admin,-net_raw", "CAP_NET_ADMIN"), ("sys_admin", "CAP_SYS_ADMIN")])
def test_a_missing_capability_is_named(node, capability, name):
    command = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", program("ztunnel"), "proxy"]
    process = Process("ztunnel without " + name, command, node.proxy_env(), node.netns)
    node.mesh.processes.append(process)
    assert process.wait_exit() not in (0, -6, -11)
    assert name in process.text()


def test_an_unwritable_ca_folder_is_named(node):
    blocked = os.path.join(node.mesh.folder, "a-file")
    write_file(blocked, "")
    assert blocked in fails(node, EMBEDDED_CA_DIR=blocked + "/ca")


def test_the_command_line(mesh):
    def ask(*words):
        return subprocess.run([program("ztunnel"), *words], capture_output=True, text=True, timeout=10)

    version = ask("version")
    assert version.returncode == 0 and version.stdout.startswith('version.BuildInfo{Version:"')
    assert ask("help").returncode == 0 and "proxy" in ask("help").stdout
    wrong = ask("dance")
    assert wrong.returncode == 1 and "dance" in wrong.stderr


def test_the_agent_names_what_is_wrong_with_its_pods_file(mesh):
    def start(text):
        path = os.path.join(mesh.folder, "pods.yaml")
        write_file(path, text)
        process = Process("ztunnel-agent", [program("ztunnel-agent"), "--pods", path], {"ZTUNNEL_UDS_ADDRESS": os.path.join(mesh.folder, "s")},
                          mesh.nodes[0].netns)
        mesh.processes.append(process)
        return process

    no_yaml = start("[")
    assert no_yaml.wait_exit() not in (0, -6, -11)
    assert "pods.yaml:1:" in no_yaml.text()
    # A wrong entry costs that entry, not the agent.
    start("pods:\n- {uid: 1, nonsense: 2}\n").wait_line("pods.yaml:2:")


def test_an_agent_without_its_pods_file_says_so(mesh):
    process = Process("ztunnel-agent", [program("ztunnel-agent"), "--pods", "/nonexistent/pods.yaml"],
                      {"ZTUNNEL_UDS_ADDRESS": os.path.join(mesh.folder, "s")}, mesh.nodes[0].netns)
    mesh.processes.append(process)
    assert process.wait_exit() not in (0, -6, -11)
    assert "/nonexistent/pods.yaml" in process.text()


def test_whoever_types_ztunnel_with_no_control_plane_near_is_told_how_to_run_without_one(mesh):
    node = mesh.nodes[0]
    proxy = Process("ztunnel", [program("ztunnel")], {"INPOD_UDS": node.zds_socket}, node.netns)
    mesh.processes.append(proxy)
    line = proxy.wait_line("the control plane cannot be reached", timeout=30)
    for word in ("LOCAL_XDS_PATH=", "XDS_ADDRESS=", "ztunnel help", "ztunnel settings"):
        assert word in line
    assert proxy.alive()
