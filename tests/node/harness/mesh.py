"""A mesh of two nodes:

    node 1 (namespace)                                node 2 (namespace)
      ztunnel, ztunnel-agent                            ztunnel, ztunnel-agent
      eth0 192.168.77.1 ------------ link ------------- eth0 192.168.77.2
      |                                                 |
      veth, routed                                      veth, routed
      |                                                 |
      pods 10.244.1.x, fd00:10:244:1::x                 pods 10.244.2.x, fd00:10:244:2::x

Pods are routed as by a point-to-point CNI: each has a veth to its node and a default route over it. What a pod is to the mesh
(enrolled or not, account, services, policies) comes from two YAML files: mesh.yaml, which all proxies watch, and the pods.yaml
of each agent. Files are written as JSON, which is YAML.
"""

import ctypes
import http.client
import json
import mmap
import os
import shutil
import socket
import struct
import subprocess
import tempfile

from . import apps
from .netns import Netns, connect_veth
from .process import Process, eventually

BIN = os.environ.get("ZT_BIN") or os.path.join(os.path.dirname(__file__), "../../../build/release/bin")
SO_NETNS_COOKIE, EBPF_CAPTURES = 71, 1
CAPTURE_PORTS = {15001, 15006, 15008}
TRUST_DOMAIN = "cluster.local"


def program(name):
    path = os.path.realpath(os.path.join(BIN, name))
    if not os.path.exists(path):
        raise RuntimeError(f"{path} is missing: ./dev build makes it (ZT_BIN names another folder)")
    return path


def sanitized():
    """Whether the programs under test are built with a sanitizer."""
    with open(program("ztunnel"), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        return image.find(b"__asan_init") >= 0


def write_file(path, text):
    """Atomically, as editors and kubelets do it."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def legacy_can_be_tried():
    """Whether iptables' old tables can be had here."""
    return all(subprocess.run([program, "-w", "10", "-t", "nat", "-S"], capture_output=True).returncode == 0
               for program in ("iptables-legacy", "ip6tables-legacy") if shutil.which(program)) and bool(shutil.which("iptables-legacy"))


def cgroup2():
    """The first mounted cgroup of version 2, or None: in a container with a cgroup namespace that of the container."""
    with open("/proc/self/mountinfo") as file:
        return next((line.split()[4] for line in file if " - cgroup2 " in line), None)


def ebpf_can_be_tried():
    """Whether a bpf file system can be mounted here, a map made in it, and cgroups of version 2 are."""
    if os.geteuid() != 0 or not cgroup2():
        return False
    try_it = 'mount -t bpf bpf /tmp && bpftool map create /tmp/tried type hash key 8 value 8 entries 1 name tried'
    return subprocess.run(["unshare", "-m", "sh", "-c", try_it], capture_output=True,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).returncode == 0


def own_mounts():
    """Mounts made from here on are this process's own, and go with it, also if it is killed."""
    global _own_mounts
    if _own_mounts:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    _own_mounts = True


_own_mounts = False


class Pod:
    def __init__(self, node, name, index, account, namespace, captured, trust_domain):
        self.node, self.name, self.account, self.namespace, self.captured = node, name, account, namespace, captured
        self.trust_domain = trust_domain
        self.uid = f"00000000-0000-4000-8000-{node.number:04d}{index:08d}"
        self.ip = f"10.244.{node.number}.{index}"
        self.ip6 = f"fd00:10:244:{node.number}::{index:x}"
        self.netns = Netns(name)
        self.servers = []
        self.options = {}  # of its entry in the pods file
        self.speaks_hbone = captured  # what mesh.yaml says of it; a pod may terminate the tunnel by itself
        port = f"v{index}"
        connect_veth(node.netns, port, self.netns, "eth0")
        node.netns.ip("addr", "add", "169.254.1.1/32", "dev", port)
        node.netns.ip("-6", "addr", "add", "fe80::1/64", "dev", port, "nodad")
        node.netns.ip("route", "add", f"{self.ip}/32", "dev", port)
        node.netns.ip("-6", "route", "add", f"{self.ip6}/128", "dev", port)
        self.netns.ip("addr", "add", f"{self.ip}/32", "dev", "eth0")
        self.netns.ip("-6", "addr", "add", f"{self.ip6}/128", "dev", "eth0", "nodad")
        self.netns.ip("route", "add", "169.254.1.1/32", "dev", "eth0", "scope", "link")
        self.netns.ip("route", "add", "default", "via", "169.254.1.1", "src", self.ip)
        self.netns.ip("-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0")

    @property
    def identity(self):
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.account}"

    def connect(self, address, port, timeout=apps.TIMEOUT, source=None):
        """A connected TCP socket of this pod, as a program in it would have."""
        sock = self.netns.socket(apps.family_of(address))
        sock.settimeout(timeout)
        if source:
            sock.bind(source)
        try:
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def serve(self, port, handler=apps.echo, address="::"):
        server = apps.Server(self.netns, port, handler, address)
        self.servers.append(server)
        return server

    def wait_captured(self):
        """Until the proxy listens in this pod and the agent's rules stand."""
        eventually(lambda: CAPTURE_PORTS <= self.netns.listening_ports(), f"the proxy's listeners in {self.name}")
        eventually(self.is_redirected, f"the redirection rules in {self.name}")

    def is_redirected(self):
        """Whether new connections are led to the proxy, whatever the backend is."""
        if self.node.mesh.bpffs and self._is_redirected_by_ebpf():
            return True
        # The nft variant of iptables shows here too.
        return any("15001" in self.netns.run(*command) for command in (("nft", "list", "ruleset"), ("iptables-legacy-save",)))

    def _is_redirected_by_ebpf(self):
        pods = f"{self.node.mesh.bpffs}/ztunnel-1/maps/pods"
        if not os.path.exists(pods):
            return False
        with self.netns.socket() as sock:
            cookie = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        found = subprocess.run(["bpftool", "-j", "map", "lookup", "pinned", pods, "key", "hex", *(f"{byte:02x}" for byte in cookie)],
                               capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        value = json.loads(found.stdout or "{}").get("value") if found.returncode == 0 else None
        return bool(value) and int(value[0], 16) & EBPF_CAPTURES != 0

    def wait_released(self):
        eventually(lambda: not (CAPTURE_PORTS & self.netns.listening_ports()), f"the listeners to go from {self.name}")

    def delete(self):
        for server in self.servers:
            server.close()
        self.netns.delete()
        self.node.pods.remove(self)

    def workload(self):
        """As mesh.yaml describes it."""
        return {
            "uid": f"Kubernetes//Pod/{self.namespace}/{self.name}", "name": self.name, "namespace": self.namespace,
            "serviceAccount": self.account, "trustDomain": self.trust_domain, "workloadIps": [self.ip, self.ip6],
            "protocol": "HBONE" if self.speaks_hbone else "TCP", "node": self.node.name, "network": "", "services": {},
        }


class Node:
    def __init__(self, mesh, number):
        self.mesh, self.number, self.name = mesh, number, f"node{number}"
        self.netns = Netns(self.name)
        self.pods = []
        self.ztunnel = None
        self.agent = None
        self.resolv_conf = None  # a file that the proxy has instead of the machine's
        self._made = 0
        self.netns.sysctl("net.ipv4.ip_forward", 1)
        self.netns.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.pods_file = os.path.join(mesh.folder, f"{self.name}-pods.yaml")
        self.zds_socket = os.path.join(mesh.folder, f"{self.name}.sock")
        self.write_pods()

    def pod(self, name, account=None, namespace="shop", captured=True, trust_domain=TRUST_DOMAIN):
        self._made += 1
        pod = Pod(self, name, self._made + 1, account or name, namespace, captured, trust_domain)
        self.pods.append(pod)
        return pod

    def write_pods(self, enrolled=None):
        """Tells the agent which pods to enrol: the captured ones, or those given."""
        if enrolled is None:
            enrolled = [p for p in self.pods if p.captured]
        write_file(self.pods_file, json.dumps({"pods": [
            {"uid": p.uid, "name": p.name, "namespace": p.namespace, "serviceAccount": p.account, "netns": p.netns.path,
             **p.options}
            for p in enrolled]}, indent=1))

    def proxy_env(self, **changes):
        env = {
            "PROXY_MODE": "shared", "NODE_NAME": self.name, "INPOD_UDS": self.zds_socket, "XDS_ADDRESS": "",
            "LOCAL_XDS_PATH": self.mesh.file, "EMBEDDED_CA_DIR": self.mesh.ca_folder, "ZTUNNEL_WORKER_THREADS": "2",
            "RUST_LOG": "access=debug", "ZT_SEAL_LEDGER": self.mesh.ledger,
        }
        env.update(changes)
        return {k: v for k, v in env.items() if v is not None}

    def start_agent(self, **changes):
        self.agent = Process(f"ztunnel-agent of {self.name}", [program("ztunnel-agent"), "--pods", self.pods_file],
                             {"ZTUNNEL_UDS_ADDRESS": self.zds_socket, "ZTUNNEL_AGENT_VERIFY_INTERVAL": "1s", **changes}, self.netns)
        self.mesh.processes.append(self.agent)

    def start_ztunnel(self, **changes):
        command = [program("ztunnel"), "proxy", "ztunnel"]
        if self.resolv_conf:
            command = ["unshare", "-m", "sh", "-c", f"mount --bind {self.resolv_conf} /etc/resolv.conf && exec {' '.join(command)}"]
        self.ztunnel = Process(f"ztunnel of {self.name}", command, self.proxy_env(**changes), self.netns)
        self.mesh.processes.append(self.ztunnel)

    def http(self, port, path, method="GET", address="127.0.0.1", netns=None):
        """An HTTP request from within the node, or another namespace: (status, body). Nothing while nobody listens."""
        try:
            with (netns or self.netns).entered():
                sock = socket.create_connection((address, port), timeout=5)
        except OSError:
            return None, ""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = sock
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def ready(self):
        return self.http(15021, "/healthz/ready")[0] == 200

    def wait_ready(self):
        def check():
            if not self.ztunnel.alive():
                raise AssertionError(f"ztunnel of {self.name} ended with {self.ztunnel.popen.poll()}; its log:\n{self.ztunnel.text()}")
            return self.ready()
        try:
            eventually(check, f"{self.name} ready", timeout=30)
        except AssertionError as error:
            raise AssertionError(f"{error}; 15021 says {self.http(15021, '/healthz/ready')}\n{self.mesh.logs()}") from None


class Mesh:
    """Use as a context: whatever happens inside, nothing of it is left."""

    def __init__(self, nodes=2):
        self._temp = tempfile.TemporaryDirectory(prefix="ztt-")
        self.folder = self._temp.name
        self.file = os.path.join(self.folder, "mesh.yaml")
        self.ca_folder = os.path.join(self.folder, "ca")
        self.ledger = os.path.join(self.folder, "sealed")  # of what all proxies have sealed, if their build watches that
        self.processes, self.services, self.policies, self.extra_workloads = [], [], [], []
        self.bpffs = None  # where agents pin programs, once there is one
        self.beside = []  # network namespaces of proxies that came later
        self.nodes = [Node(self, n + 1) for n in range(nodes)]
        first = self.nodes[0]
        for node in self.nodes[1:]:  # each has a link to the first: a star
            port, network = f"eth{node.number - 2}", 75 + node.number
            connect_veth(first.netns, port, node.netns, "eth0")
            for me, device, other in ((first, port, node), (node, "eth0", first)):
                me.netns.ip("addr", "add", f"192.168.{network}.{me.number}/24", "dev", device)
                me.netns.ip("-6", "addr", "add", f"fd00:{network}::{me.number}/64", "dev", device, "nodad")
                me.netns.ip("route", "add", f"10.244.{other.number}.0/24", "via", f"192.168.{network}.{other.number}")
                me.netns.ip("-6", "route", "add", f"fd00:10:244:{other.number}::/64", "via", f"fd00:{network}::{other.number}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for process in reversed(self.processes):
            process.stop()
        for netns in self.beside:
            netns.delete()
        for node in self.nodes:
            for pod in list(node.pods):
                pod.delete()
            node.netns.delete()
        if self.bpffs:  # with it go the programs
            subprocess.run(["umount", self.bpffs], capture_output=True)
        twice = self.sealed()[1]
        self._temp.cleanup()
        assert twice == 0, f"{twice} records were to be sealed with a key and a sequence number that had been used"

    def sealed(self):
        """Records that proxies have sealed, and those that they refused to because another one or they themselves had used key and
        sequence number; (0, 0) if they do not watch it (tests/support/seal_ledger)."""
        if not os.path.exists(self.ledger):
            return 0, 0
        with open(self.ledger, "rb") as file:
            return struct.unpack("=QQ", file.read(16))

    def mount_bpffs(self):
        """A bpf file system for the agents of this mesh alone; their environment for it."""
        own_mounts()
        path = os.path.join(self.folder, "bpf")
        os.mkdir(path)
        subprocess.run(["mount", "-t", "bpf", "bpf", path], check=True)
        self.bpffs = path
        return {"ZTUNNEL_AGENT_BPFFS": path, "ZTUNNEL_AGENT_CGROUP": cgroup2()}

    @property
    def pods(self):
        return [pod for node in self.nodes for pod in node.pods]

    def service(self, name, vip, port, target, pods, namespace="shop", vip6=None):
        hostname = f"{name}.{namespace}.svc.cluster.local"
        vips = [f"/{vip}"] + ([f"/{vip6}"] if vip6 else [])
        self.services.append(({"hostname": hostname, "name": name, "namespace": namespace, "vips": vips,
                               "ports": {str(port): target}}, list(pods)))

    def policy(self, name, rules, action="Allow", scope="Namespace", namespace="shop"):
        self.policies.append({"name": name, "namespace": namespace, "scope": scope, "action": action, "rules": rules})

    def text(self):
        """mesh.yaml as it stands."""
        workloads = []
        for pod in self.pods:
            workload = pod.workload()
            for service, members in self.services:
                if pod in members:
                    workload["services"][f"{service['namespace']}/{service['hostname']}"] = {int(k): v for k, v in service["ports"].items()}
            workloads.append(workload)
        return json.dumps({"workloads": workloads + self.extra_workloads, "services": [s for s, _ in self.services],
                           "policies": self.policies}, indent=1)

    def write(self):
        write_file(self.file, self.text())

    def start(self, agent=None, **proxy_changes):
        """Everything up: files, agents, proxies, pods captured. `agent`: of the agents' environment."""
        self.write()
        for node in self.nodes:
            node.write_pods()
            node.start_agent(**(agent or {}))
            node.start_ztunnel(**proxy_changes)
        for node in self.nodes:
            node.wait_ready()
        for pod in self.pods:
            if pod.captured:
                pod.wait_captured()
        return self

    def edit(self):
        """Writes mesh.yaml anew and waits until every proxy says that it serves it."""
        marks = [(node.ztunnel, node.ztunnel.mark()) for node in self.nodes if node.ztunnel and node.ztunnel.alive()]
        self.write()
        for ztunnel, mark in marks:
            ztunnel.wait_line(RELOADED, since=mark)

    def logs(self):
        return "\n".join(f"----- {p.name} (exit {p.popen.poll()})\n{p.text()}" for p in self.processes)


RELOADED = "local configuration read"
REFUSED = r"local configuration refused.*mesh\.yaml:\d+:\d+"
