"""A node with Debian's containerd, runc and CNI plugins, in namespaces of its own, and as much of a kubelet as starts pods from manifests.

    node (network, mount and process namespace; /run and /var/lib are empty file systems)
      containerd
      API server of the tests      172.30.9.1
      cni0 10.250.9.1/24           the plugin "bridge", by the node's chain of plugins
      pods 10.250.9.x

Containers get what the manifest says and kubelet passes on: user, capabilities, seccomp profile, read-only root, masked paths, mounts, environment. All ends with the
process namespace.
"""

import glob
import json
import os
import shutil
import subprocess

from . import cri
from .cri import Map, decode
from .kubernetes import Kubernetes
from .mesh import write_file
from .netns import Netns, run
from .process import Process, eventually

API = "172.30.9.1"
# As kubelet has them.
MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
          "/proc/scsi", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
CONFIG = """version = 2
root = "{folder}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/opt/cni/bin"
    conf_dir = "{folder}/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
# /run belongs to the node, and what is mounted there is seen by containers that ask for it, as under systemd.
START = """set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/netns /run/lock
mount --make-rshared /
exec containerd --config "$1"
"""


class Pod:
    def __init__(self, name, namespace, account, uid):
        self.name, self.namespace, self.account, self.uid = name, namespace, account, uid
        self.sandbox = self.ip = None
        self.containers = {}

    def config(self, node):
        return {1: {1: self.name, 2: self.uid, 3: self.namespace}, 2: self.name, 3: node.log_folder(self), 4: {1: ["127.0.0.1"]},
                6: Map({"io.kubernetes.pod.name": self.name, "io.kubernetes.pod.namespace": self.namespace, "io.kubernetes.pod.uid": self.uid}),
                8: {1: f"/{node.cgroup}/kubepods/besteffort/pod{self.uid}", 2: {1: {1: cri.POD}}}}


class ContainerNode:
    def __init__(self, folder, images, sandbox_image):
        self.folder, self.name, self.cgroup = os.path.join(folder, "node"), "node1", f"ztt{os.getpid()}"
        self.bin, self.conf = (os.path.join(self.folder, path) for path in ("opt/cni/bin", "etc/cni/net.d"))
        for path in (self.bin, self.conf, os.path.join(self.folder, "logs")):
            os.makedirs(path)
        self.pods, self.uids = [], 0
        self.netns = Netns("node")
        self.netns.ip("addr", "add", f"{API}/32", "dev", "lo")
        self.netns.sysctl("net.ipv4.ip_forward", 1)
        self.api = Kubernetes(folder, self.netns, API)
        for plugin in ("bridge", "host-local", "loopback", "portmap"):
            shutil.copy(os.path.join("/usr/lib/cni", plugin), self.bin)
        self.conflist = os.path.join(self.conf, "10-bridge.conflist")
        write_file(self.conflist, json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.250.9.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}}]}))
        socket = os.path.join(self.folder, "containerd.sock")
        config = os.path.join(self.folder, "containerd.toml")
        write_file(config, CONFIG.format(folder=self.folder, socket=socket, sandbox=sandbox_image))
        self.containerd = Process("containerd", ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                                                 "sh", "-c", START, "sh", config], netns=self.netns)
        self.containerd.wait_line("containerd successfully booted", timeout=30)
        self.cri = cri.Cri(socket)
        for image in images:
            subprocess.run(["ctr", "-a", socket, "-n", "k8s.io", "images", "import", image], check=True, capture_output=True)

    def close(self):
        self.cri.close()
        # The process namespace ends with its first process, and with it every container and mount.
        self.containerd.kill()
        self.api.close()
        for top in glob.glob(f"/sys/fs/cgroup/{self.cgroup}") + glob.glob(f"/sys/fs/cgroup/*/{self.cgroup}"):
            eventually(lambda top=top: self._remove_cgroup(top), f"{top} to be empty")
        self.netns.delete()

    @staticmethod
    def _remove_cgroup(top):
        subprocess.run(["find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], capture_output=True)
        return not os.path.exists(top)

    # ---- what a kubelet does
    def log_folder(self, pod):
        return os.path.join(self.folder, "logs", f"{pod.namespace}-{pod.name}")

    def plugins(self):
        with open(self.conflist) as file:
            return [plugin["type"] for plugin in json.load(file)["plugins"]]

    def pod(self, name, namespace="shop", account=None, **parts):
        """A pod that the scheduler has given to this node: the API shows it without an address."""
        self.uids += 1
        pod = Pod(name, namespace, account or name, f"00000000-0000-4000-8000-{self.uids:012d}")
        os.makedirs(self.log_folder(pod))
        self.pods.append(pod)
        self.api.put("pods", f"{namespace}/{name}", uid=pod.uid, spec={"nodeName": self.name, "serviceAccountName": pod.account},
                     status={"phase": "Pending"}, **parts)
        return pod

    def start_sandbox(self, pod):
        """Its namespaces, and its network by the chain of CNI plugins. RuntimeError if one refuses."""
        pod.sandbox = self.cri.call("RunPodSandbox", {1: pod.config(self)})[1][0].decode()
        status = decode(self.cri.call("PodSandboxStatus", {1: pod.sandbox})[1][0])
        pod.ip = decode(status[5][0])[1][0].decode()

    def start_container(self, pod, name, image, **fields):
        """`fields`: of a ContainerConfig, by number, as f3=…"""
        config = {1: {1: name}, 2: {1: image}, 11: f"{name}.log", **{int(key[1:]): value for key, value in fields.items()}}
        container = self.cri.call("CreateContainer", {1: pod.sandbox, 2: config, 3: pod.config(self)})[1][0].decode()
        pod.containers[name] = container
        self.cri.call("StartContainer", {1: container})

    def report_running(self, pod):
        self.api.put("pods", f"{pod.namespace}/{pod.name}", status={"phase": "Running", "podIP": pod.ip, "podIPs": [{"ip": pod.ip}]})

    def stop(self, pod, grace=5):
        """As a deletion does: TERM, the sandbox's end with a DEL, the API's object gone."""
        for container in pod.containers.values():
            self.cri.call("StopContainer", {1: container, 2: grace})
        self.cri.call("StopPodSandbox", {1: pod.sandbox})
        self.cri.call("RemovePodSandbox", {1: pod.sandbox})
        self.api.delete("pods", f"{pod.namespace}/{pod.name}")
        self.pods.remove(pod)

    def pid(self, pod, name=None):
        """Of a container's first process, as the node's own /proc has it."""
        info = self.cri.call("ContainerStatus", {1: pod.containers[name or next(iter(pod.containers))], 2: True})[2]
        return json.loads({decode(entry)[1][0]: decode(entry)[2][0] for entry in info}[b"info"])["pid"]

    def run(self, *command, check=True):
        """A command on the node: in its namespaces, with this machine's programs."""
        with open(f"/proc/{self.containerd.pid}/task/{self.containerd.pid}/children") as file:
            first = file.read().split()[0]
        return run("nsenter", "-t", first, "--mount", "--pid", "--net", *command, check=check)

    def run_in(self, pod, *command, check=True):
        """A command of this machine in a pod's network namespace, also of a pod without containers."""
        return self.run("nsenter", f"--net={self.netns_of(pod)}", *command, check=check)

    def netns_of(self, pod):
        """The path that the runtime gave to the plugins."""
        info = self.cri.call("PodSandboxStatus", {1: pod.sandbox, 2: True})[2]
        spec = json.loads({decode(entry)[1][0]: decode(entry)[2][0] for entry in info}[b"info"])["runtimeSpec"]
        return next(n["path"] for n in spec["linux"]["namespaces"] if n["type"] == "network")

    def log(self, pod, name=None):
        """What a container has written, without the runtime's prefix."""
        path = os.path.join(self.log_folder(pod), f"{name or next(iter(pod.containers))}.log")
        with open(path) as file:
            return "\n".join(line.split(" ", 3)[-1] for line in file.read().splitlines())

    def wait_log(self, pod, text, timeout=60):
        eventually(lambda: text in self.log(pod), f"{pod.name} to log {text!r}; it has said\n{self.log(pod)}", timeout)
