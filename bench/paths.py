"""The paths that are compared: two network namespaces joined by a veth pair, with nothing in between (direct) or with a proxy
in each (dedicated mode, the in-pod rules of the contract), and the load generator at both ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../tests/node"))

from harness import dedicated  # noqa: E402
from harness.netns import Netns, connect_veth  # noqa: E402
from harness.process import Process, eventually  # noqa: E402

CLIENT, SERVER = "10.99.0.1", "10.99.0.2"
MANY = "10.99.8.0"       # the server answers on this address and those after it: a tunnel of its own for each
MANY_COUNT = 2048
PORT = 5001


class Failed(Exception):
    """A measurement that the path could not do; its text goes into the table."""


@contextlib.contextmanager
def cubic_allowed():
    """Namespaces may only choose congestion controls from the machine's list; cubic is put on it for as long as we run."""
    path = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"
    with open(path) as file:
        before = file.read().split()
    try:
        if "cubic" not in before:
            _write(path, " ".join([*before, "cubic"]))
        yield
    finally:
        if "cubic" not in before:
            _write(path, " ".join(before))


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


def many_addresses():
    base = [int(part) for part in MANY.split(".")]
    return [f"{base[0]}.{base[1]}.{base[2] + i // 256}.{i % 256}" for i in range(MANY_COUNT)]


def mesh_yaml():
    """What both proxies know: one client, one server with many addresses. JSON is YAML."""
    def workload(name, addresses):
        return {"uid": f"bench/{name}", "name": name, "namespace": "bench", "serviceAccount": name, "workloadIps": addresses,
                "protocol": "HBONE", "network": "", "services": {}}
    return json.dumps({"workloads": [workload("client", [CLIENT]), workload("server", [SERVER, *many_addresses()])], "policies": [], "services": []})


class Path:
    """Two namespaces and the load server; with `binary`, a proxy in each."""

    def __init__(self, name, load, folder, binary=None, environment=None):
        self.name, self.load, self.binary, self.environment = name, load, binary, environment or {}
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder)
        self.client, self.server = Netns(f"{name}-c"), Netns(f"{name}-s")
        connect_veth(self.client, "eth0", self.server, "eth0")
        for netns, address in ((self.client, CLIENT), (self.server, SERVER)):
            netns.ip("addr", "add", f"{address}/16", "dev", "eth0")
            netns.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
            netns.sysctl("net.ipv4.tcp_tw_reuse", 1)
            netns.sysctl("net.core.somaxconn", 4096)
            if binary:
                dedicated.redirect(netns)
                # or the connections of one measurement would still be in the table during the next
                netns.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", 1)
                netns.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", 1)
        self.server.ip("route", "add", "local", f"{MANY}/21", "dev", "lo")
        self.mesh = os.path.join(self.folder, "mesh.yaml")
        _write(self.mesh, mesh_yaml())
        self.proxies, self.sink = [], None
        self.start()

    def start(self):
        """The proxies, the server's first, and the load server; also starts them anew."""
        self.stop()
        if self.binary:
            for netns, name in ((self.server, "server"), (self.client, "client")):
                env = {**dedicated.environment(self.mesh, os.path.join(os.path.dirname(self.folder), "ca"), f"bench/{name}/{name}"),
                       "RUST_LOG": "info", **self.environment}
                proxy = Process(f"{self.name} ({name})", [self.binary, "proxy"], env, netns)
                eventually(lambda: not proxy.alive() or {15001, 15006, 15008} <= netns.listening_ports(), f"{self.name} to listen", timeout=20)
                if not proxy.alive():
                    raise Failed(f"{self.name} ended: {proxy.text()[-2000:]}")
                self.proxies.append(proxy)
        self.sink = Process("load server", [self.load, "serve", "--port", str(PORT)], netns=self.server)
        self.sink.wait_line("ready")

    def stop(self):
        for process in [*self.proxies, *([self.sink] if self.sink else [])]:
            process.kill()
        self.proxies, self.sink = [], None

    def close(self):
        self.stop()
        self.client.delete()
        self.server.delete()

    # -------------------------------------------------------------------------------------------------------- load
    def run(self, *words, to=SERVER, timeout=120):
        """One run of the load generator: its result."""
        command = [*self.client.prefix(), self.load, words[0], "--to", f"{to}:{PORT}", *map(str, words[1:])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed("stands still") from None
        if done.returncode != 0:
            raise Failed(done.stderr.strip().removeprefix("load: "))
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def held(self, *words, to=SERVER, timeout=120):
        """A run that, once it has reported, is held in that state until the context ends."""
        command = [*self.client.prefix(), self.load, words[0], "--to", f"{to}:{PORT}", *map(str, words[1:])]
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        alarm = signal.signal(signal.SIGALRM, lambda *_: popen.kill())
        signal.alarm(timeout)
        try:
            line = popen.stdout.readline()
            signal.alarm(0)
            if not line:
                raise Failed(popen.stderr.read().strip().removeprefix("load: ") or "stands still")
            yield json.loads(line)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, alarm)
            popen.stdin.close()
            popen.kill()
            popen.wait()

    # ----------------------------------------------------------------------------------------------------- proxies
    def cpu(self):
        """CPU seconds (user and system, all threads) that each proxy has used: [server's, client's]."""
        return [cpu_seconds(proxy.pid) for proxy in self.proxies]

    def resident(self):
        """Resident bytes of each proxy: [server's, client's]."""
        return [_status_bytes(proxy.pid, "VmRSS") for proxy in self.proxies]

    def settled(self, quiet=1.5, limit=6.0):
        """Resident bytes once they have stood still for a while: what a proxy gives back to the system, it gives back late."""
        sizes, since, end = self.resident(), time.monotonic(), time.monotonic() + limit
        while time.monotonic() < min(since + quiet, end):
            time.sleep(0.25)
            now = self.resident()
            if now != sizes:
                sizes, since = now, time.monotonic()
        return sizes

    @contextlib.contextmanager
    def cpu_spent(self):
        """Yields a list that holds the CPU seconds of [server's, client's] proxy when the context has ended."""
        spent, before = [], self.cpu()
        yield spent
        spent.extend(after - start for after, start in zip(self.cpu(), before))


def cpu_seconds(pid):
    """User and system time of the threads that a process has now, as its scheduler counts it: in nanoseconds. (stat rounds to ticks of
    10 ms, which is a tenth of what a second of a thousand requests costs.)"""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def _status_bytes(pid, key):
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    return 0
