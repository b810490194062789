"""What strangers and neighbours can make a proxy hold: silent connections to 15008, receivers that stop, and a container's limit."""

import contextlib
import os
import re
import resource
import socket
import threading

import pytest

from harness import apps
from harness.mesh import Mesh, sanitized
from harness.process import eventually

KIB, MIB = 1024, 1024 * 1024
# The sanitizers' own memory says nothing of ours.
SANITIZED = sanitized()


def rss(process):
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) * KIB


def metric(node, name):
    status, body = node.http(15020, "/metrics")
    assert status == 200
    found = re.search(rf"^{re.escape(name)} (\S+)$", body, re.M)
    return float(found.group(1)) if found else 0.0


def ended(sock):
    """The peer has closed or reset it."""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture(autouse=True)
def _descriptors():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_silent_connections_cost_little_and_only_so_many_stay(mesh):
    client, far = mesh.nodes[0].pod("client"), mesh.nodes[1].pod("far")
    stranger = mesh.nodes[0].pod("stranger", captured=False)
    far.serve(8080, apps.echo)
    mesh.start(ZT_HANDSHAKES_PER_SOURCE="200", ZT_HANDSHAKE_TIMEOUT="5m")
    node = mesh.nodes[1]
    with client.connect(far.ip, 8080) as before:
        before.sendall(b"x")
        assert apps.read_exactly(before, 1) == b"x"
        fresh = rss(node.ztunnel)
        silent = [stranger.connect(far.ip, 15008) for _ in range(600)]
        eventually(lambda: metric(node, 'zt_limit_reached_total{limit="handshakes_per_source"}') == 400, "400 ended")
        eventually(lambda: metric(node, "zt_handshakes_in_flight") == 200, "200 left")
        assert [ended(sock) for sock in silent] == [True] * 400 + [False] * 200, "the oldest go"
        # 200 of them cost some 8 MiB when each had its OpenSSL objects and a coroutine.
        if not SANITIZED:
            assert rss(node.ztunnel) - fresh < 2 * MIB
        before.sendall(b"y")
        assert apps.read_exactly(before, 1) == b"y"
        # Who has a certificate is let in beside them.
        with client.connect(far.ip, 8080) as sock:
            sock.sendall(b"z")
            assert apps.read_exactly(sock, 1) == b"z"
        for sock in silent:
            sock.close()
        eventually(lambda: metric(node, "zt_handshakes_in_flight") == 0, "none left")
    assert len(node.ztunnel.matching("tls handshake error")) <= 600


def test_half_a_hello_is_as_cheap_and_ends_at_its_time(mesh):
    far = mesh.nodes[1].pod("far")
    stranger = mesh.nodes[0].pod("stranger", captured=False)
    mesh.start(ZT_HANDSHAKE_TIMEOUT="2s")
    node = mesh.nodes[1]
    fresh = rss(node.ztunnel)
    half = [stranger.connect(far.ip, 15008) for _ in range(200)]
    for sock in half:
        sock.sendall(b"\x16\x03\x01\x02\x00" + b"x" * 200)
    eventually(lambda: metric(node, "zt_handshakes_in_flight") == 200, "all at the door")
    if not SANITIZED:
        assert rss(node.ztunnel) - fresh < 2 * MIB
    eventually(lambda: all(ended(sock) for sock in half), "all ended")
    assert metric(node, 'zt_tunnel_handshakes_total{role="server",result="tls_timeout"}') == 200
    for sock in half:
        sock.close()


CGROUPS = "/sys/fs/cgroup/memory" if os.path.isdir("/sys/fs/cgroup/memory") else "/sys/fs/cgroup"
LIMIT_FILE = "memory.limit_in_bytes" if CGROUPS.endswith("/memory") else "memory.max"


def own_group():
    with open("/proc/self/cgroup") as file:
        lines = file.read().splitlines()
    wanted = [line for line in lines if (":memory:" in line if CGROUPS.endswith("/memory") else line.startswith("0::"))]
    return OWN_GROUP.setdefault("path", wanted[0].split(":", 2)[2])


OWN_GROUP = {}  # as it was when first asked for


class Container:
    """A control group with a memory limit; programs of `node` are started inside."""

    def __init__(self, name, limit):
        own_group()
        self.path = f"{CGROUPS}/zt-test-{os.getpid()}-{name}"
        try:
            os.mkdir(self.path)
            self.limit(limit)
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")

    def limit(self, size):
        with open(f"{self.path}/{LIMIT_FILE}", "w") as file:
            file.write(str(size))

    @contextlib.contextmanager
    def entered(self):
        """What is started inside stays there."""
        self._move(self.path)
        try:
            yield self
        finally:
            self._move(CGROUPS + own_group())

    @staticmethod
    def _move(path):
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))

    def kills(self):
        """How often the kernel has killed in here."""
        for name in ("memory.events", "memory.oom_control"):
            if os.path.exists(f"{self.path}/{name}"):
                with open(f"{self.path}/{name}") as file:
                    return int(re.search(r"oom_kill (\d+)", file.read()).group(1))
        return 0

    def close(self):
        eventually(self._removed, "the control group to be empty")

    def _removed(self):
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


@pytest.fixture
def container():
    made = []

    def make(name, limit):
        made.append(Container(name, limit))
        return made[-1]

    yield make
    for each in made:
        each.close()


def budget(node):
    return metric(node, "zt_memory_budget_bytes")


def test_the_budget_follows_the_containers_limit_unless_it_is_set(container, mesh):
    inside = container("follow", 256 * MIB)
    mesh.write()
    first, second = mesh.nodes
    with inside.entered():
        first.start_ztunnel()
        second.start_ztunnel(ZT_MEMORY_BUDGET="20Mi")
    for node in mesh.nodes:
        node.start_agent()
        node.wait_ready()
    eventually(lambda: budget(first) == 64 * MIB, "a quarter of the limit")
    inside.limit(512 * MIB)
    eventually(lambda: budget(first) == 128 * MIB, "a quarter of the new limit")
    inside.limit(8 * 1024 * MIB)
    eventually(lambda: budget(first) == 256 * MIB, "not more than this")
    assert budget(second) == 20 * MIB
    first.ztunnel.wait_line("memory budget follows the container")


class Stalled:
    """Connections whose receivers take `fast` bytes and then nothing until resume(); the senders send what is taken."""

    def __init__(self, client, server, count, fast):
        self.fast, self.received = fast, {}
        self._resume = threading.Event()
        self._lock = threading.Lock()
        self.done = 0
        server.serve(7100, self._receive)
        self.senders = [client.connect(server.ip, 7100, timeout=60) for _ in range(count)]
        self.sent = [0] * count
        self.threads = [apps.start(lambda i=i: self._send(i)) for i in range(count)]

    def _receive(self, connection, _peer):
        connection.settimeout(None)
        got = 0
        while got < self.fast:
            got += len(connection.recv(1 << 20))
        with self._lock:
            self.done += 1
        self._resume.wait(120)
        while more := connection.recv(1 << 20):
            got += len(more)
        with self._lock:
            self.received[connection.fileno()] = got
        connection.close()

    def _send(self, i):
        sock = self.senders[i]
        chunk = bytes(1 << 18)
        while self.sent[i] < self.fast:
            self.sent[i] += sock.send(chunk)
        sock.setblocking(False)
        self.sent[i] += apps.fill(sock, quiet=2)

    def wait_full(self):
        for thread in self.threads:
            thread.join(120)

    def resume_and_check(self):
        for sock in self.senders:
            sock.shutdown(socket.SHUT_WR)
        self._resume.set()
        eventually(lambda: len(self.received) == len(self.senders), "all bytes have come", timeout=60)
        assert sum(self.received.values()) == sum(self.sent)


@pytest.mark.parametrize("fast", [0, 8 * MIB], ids=["that never read", "that were fast"])
def test_receivers_that_stop_are_not_cut_and_cost_little(mesh, fast):
    client, far = mesh.nodes[0].pod("client"), mesh.nodes[1].pod("far")
    mesh.start(ZT_MEMORY_BUDGET="16Mi")
    node = mesh.nodes[1]
    count = 100
    fresh = rss(node.ztunnel)
    stalled = Stalled(client, far, count, fast)
    stalled.wait_full()
    held = metric(node, "zt_memory_held_bytes")
    assert 0 < held <= count * 128 * KIB
    for each in mesh.nodes:
        assert metric(each, "zt_memory_cuts_total") == 0
    if not SANITIZED:
        assert rss(node.ztunnel) - fresh < count * 128 * KIB + 8 * MIB
    stalled.resume_and_check()


def test_what_is_cut_when_the_budget_is_used_up_is_said_and_counted(mesh):
    client, far = mesh.nodes[0].pod("client"), mesh.nodes[1].pod("far")
    mesh.start(ZT_MEMORY_BUDGET="16Mi")
    node = mesh.nodes[1]
    far.serve(7101, lambda connection, _peer: None)
    senders = [client.connect(far.ip, 7101, timeout=60) for _ in range(330)]
    for sock in senders:
        sock.setblocking(False)
    threads = [apps.start(lambda s=sock: swallow(s)) for sock in senders]
    for thread in threads:
        thread.join(120)
    cuts = metric(node, "zt_memory_cuts_total")
    assert 0 < cuts <= 330 - 16 * MIB // (128 * KIB), "no more than must go"
    assert metric(node, "zt_memory_held_bytes") <= 16 * MIB
    said = node.ztunnel.matching("memory budget used up")
    assert 1 <= len(said) <= 3, "one warning in ten seconds"
    assert "shop/far" in said[0]
    for sock in senders:
        sock.close()


def swallow(sock):
    try:
        apps.fill(sock, quiet=2)
    except ConnectionError:
        pass


def test_a_container_of_64_mib_holds_150_receivers_that_stop(container, mesh):  # too small for a sanitized program
    client, far = mesh.nodes[0].pod("client"), mesh.nodes[1].pod("far")
    small = container("small", 64 * MIB)
    mesh.write()
    sender, receiver = mesh.nodes
    with small.entered():
        receiver.start_ztunnel()
    sender.start_ztunnel()
    for node in mesh.nodes:
        node.write_pods()
        node.start_agent()
        node.wait_ready()
    for pod in mesh.pods:
        pod.wait_captured()
    far.serve(8080, apps.echo)
    with client.connect(far.ip, 8080) as witness:
        witness.sendall(b"x")
        assert apps.read_exactly(witness, 1) == b"x"
        # Their windows had grown to 860 KiB each when they stopped.
        stalled = Stalled(client, far, 150, 8 * MIB)
        stalled.wait_full()
        assert receiver.ztunnel.alive()
        assert small.kills() == 0
        witness.sendall(b"y")
        assert apps.read_exactly(witness, 1) == b"y"
        assert metric(receiver, "zt_memory_cuts_total") == 0
        stalled.resume_and_check()
