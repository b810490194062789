"""Network namespaces: made with iproute2, entered by thread, swept up whatever happens."""

import atexit
import contextlib
import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess

PREFIX = "ztt"  # every namespace of ours is called ztt<pid of the test run>-<what>
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_counter = itertools.count(1)


def run(*command, stdin=None, check=True):
    """Runs a command to its end; a failure tells what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _setns(fd):
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


LISTEN, ESTABLISHED = "0A", "01"  # as /proc/net/tcp says it


class Netns:
    """One network namespace with lo up. `with ns.entered():` puts the calling thread into it; sockets made there stay there."""

    def __init__(self, what):
        self.name = f"{PREFIX}{os.getpid()}-{next(_counter)}{what}"
        self.path = f"/run/netns/{self.name}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        # Addresses are usable at once, and forged sources are not dropped by a default of the machine: as on a real node.
        self.sysctl("net.ipv6.conf.all.disable_ipv6", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_ra", 0)
        self.sysctl("net.ipv4.conf.all.rp_filter", 0)
        self.sysctl("net.ipv4.conf.default.rp_filter", 0)
        # Nothing here leaves the machine: congestion control without pacing (bbr paces).
        for control in ("cubic", "reno"):
            if self.sysctl("net.ipv4.tcp_congestion_control", control, check=False):
                break

    def prefix(self):
        """The words to put before a command that shall run in here."""
        return ["nsenter", f"--net={self.path}"]

    def run(self, *command, **options):
        return run(*self.prefix(), *command, **options)

    def ip(self, *words):
        return run("ip", "-n", self.name, *words)

    def sysctl(self, key, value, check=True):
        done = subprocess.run([*self.prefix(), "sysctl", "-qw", f"{key}={value}"], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"sysctl {key}={value} in {self.name}: {done.stderr.strip()}")
        return done.returncode == 0

    @contextlib.contextmanager
    def entered(self):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self.path, os.O_RDONLY)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)
            os.close(there)

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        with self.entered():
            return socket.socket(family, kind)

    def tcp_sockets(self):
        """(state, local port, peer's port, unread bytes) of every TCP socket in here; of a listener, connections not accepted yet."""
        with self.entered():
            sockets = []
            for table in ("tcp", "tcp6"):
                with open(f"/proc/thread-self/net/{table}") as file:
                    for line in list(file)[1:]:
                        _, local, peer, state, queues, *_ = line.split()
                        sockets.append((state, *(int(text.rsplit(":", 1)[1], 16) for text in (local, peer, queues))))
            return sockets

    def listening_ports(self):
        """TCP ports that something listens on in here."""
        return {port for state, port, _, _ in self.tcp_sockets() if state == LISTEN}

    def waiting_to_be_accepted(self, port):
        return sum(unread for state, local, _, unread in self.tcp_sockets() if state == LISTEN and local == port)

    def delete(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def sweep(pid):
    """Removes every namespace that the test run `pid` made, and ends what still runs in them."""
    names = [n for n in _existing() if n.startswith(f"{PREFIX}{pid}-")]
    for name in names:
        inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
        for process in inside:
            if int(process) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return names


def sweep_stale():
    """Removes what test runs left behind that could not clean up (power, SIGKILL)."""
    for pid in {int(m[1]) for n in _existing() if (m := re.match(rf"{PREFIX}(\d+)-", n))}:
        if not os.path.exists(f"/proc/{pid}"):
            sweep(pid)


def _existing():
    try:
        return os.listdir("/run/netns")
    except FileNotFoundError:
        return []


def connect_veth(left, left_name, right, right_name):
    run("ip", "link", "add", left_name, "netns", left.name, "type", "veth", "peer", "name", right_name, "netns", right.name)
    left.ip("link", "set", left_name, "up")
    right.ip("link", "set", right_name, "up")


atexit.register(sweep, os.getpid())
