"""One proxy after the other on a node; what stands between the two, or pretends to be one of them (docs/handover.md)."""

import os
import random
import re
import signal
import socket
import struct
import threading

from . import apps
from .mesh import program
from .netns import Netns
from .process import Process, eventually

HELLO, UNIT, READY, REFUSE, COMMIT, ABORT, BYE = range(1, 8)
HEADER = struct.Struct("<III")
MOST_DESCRIPTORS = 253
SECRET = random.Random(7).randbytes(1 << 20)


def read_message(sock):
    """(number, bytes, descriptors); None at the end."""
    data, descriptors = b"", []
    size = HEADER.size
    while len(data) < size:
        part, fds, _, _ = socket.recv_fds(sock, size - len(data), MOST_DESCRIPTORS)
        descriptors += fds
        if not part:
            return None
        data += part
        if len(data) == HEADER.size:
            size += HEADER.unpack_from(data)[1]
    return HEADER.unpack_from(data)[0], data[HEADER.size:], descriptors


def write_message(sock, number, data=b"", descriptors=()):
    whole = HEADER.pack(number, len(data), len(descriptors)) + data
    begin = 0
    descriptors = list(descriptors)
    while descriptors:
        more = len(descriptors) > 200
        begin += socket.send_fds(sock, [whole[begin:begin + 1] if more else whole[begin:]], descriptors[:200])
        descriptors = descriptors[200:]
    sock.sendall(whole[begin:])


class Between:
    """Takes the meeting place of the one who waits there, and passes on what the two say. Before each message `hook(number)` is called
    from a thread: if it returns False, both connections are closed instead."""

    def __init__(self, path, hook):
        self.path, self.hook, self.seen = path, hook, []
        self._real = path + ".real"
        os.rename(path, self._real)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                old, _ = self._listener.accept()
            except OSError:
                return
            new = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                new.connect(self._real)
            except OSError:  # it is dead
                old.close()
                continue
            for source, sink in ((old, new), (new, old)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source, sink):
        try:
            while message := read_message(source):
                number, data, descriptors = message
                self.seen.append(number)
                try:
                    if not self.hook(number):
                        break
                    write_message(sink, number, data, descriptors)
                finally:
                    for fd in descriptors:
                        os.close(fd)
        except OSError:
            pass
        # Both ends of both see it, whoever else has a copy.
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)
        os.unlink(self._real)


class Pretender:
    """Has the meeting place, and answers whoever comes with `answer(socket)` on a thread."""

    def __init__(self, path, answer, mode=0o600):
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path + ".other")
        os.chmod(path + ".other", mode)
        self._listener.listen(16)
        os.rename(path + ".other", path)
        self.visitors = 0
        threading.Thread(target=self._accept, args=(answer,), daemon=True).start()

    def _accept(self, answer):
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            self.visitors += 1
            threading.Thread(target=answer, args=(visitor,), daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.unlink(self.path)


class Replacement:
    """The proxy that comes: in a pod, and so a network namespace, of its own."""

    def __init__(self, mesh, node, **changes):
        self.netns = Netns("next")
        mesh.beside.append(self.netns)
        self.node = node
        self.process = Process(f"the next ztunnel of {node.name}", [program("ztunnel"), "proxy", "ztunnel"],
                               node.proxy_env(**changes), self.netns)
        mesh.processes.append(self.process)

    def wait_ready(self):
        eventually(lambda: self.node.http(15021, "/healthz/ready", netns=self.netns)[0] == 200, f"{self.process.name} ready", timeout=30)
        return self

    def metrics(self):
        return self.node.http(15020, "/metrics", netns=self.netns)[1]


def live(pod, address, port=8080):
    sock = pod.connect(address, port, timeout=30)
    sock.sendall(b"x")
    assert apps.read_exactly(sock, 1) == b"x"
    return sock


def echoes(sock, text):
    sock.sendall(text)
    assert apps.read_exactly(sock, len(text)) == text


def talk(sock, seed, done):
    """Both ways at once, lengths and pauses by chance, every byte by its position; the echo of all that was sent comes back."""
    chance = random.Random(seed)
    sent = received = 0
    sock.settimeout(30)

    def take(most):
        nonlocal received
        data = sock.recv(most)
        assert data, f"ended after {received} of {sent} bytes"
        expected = bytes(SECRET[(received + i) % len(SECRET)] for i in range(min(len(data), 16)))
        assert data[:16] == expected, f"a wrong byte at {received}"
        begin = received % len(SECRET)
        assert len(data) > len(SECRET) - begin or SECRET[begin:begin + len(data)] == data, f"a wrong byte behind {received}"
        received += len(data)

    while not done.is_set():
        burst = chance.choice([1, 100, 5000, 200_000])
        begin = sent % len(SECRET)
        part = SECRET[begin:begin + burst]
        writer = apps.start(lambda: sock.sendall(part))
        sent += len(part)
        while received < sent:
            take(65536)
        writer.join(30)
        if chance.random() < 0.5:
            done.wait(chance.random() * 0.05)  # idle for a moment
    sock.shutdown(1)
    assert apps.read_to_end(sock) == (b"", apps.FIN)
    return sent


def leave(old):
    """Returns the last line of the hand-over."""
    old.signal(signal.SIGTERM)
    assert old.wait_exit(30) == 0
    lines = old.matching("handed over")
    assert lines, old.text()
    return lines[-1]


def replace(mesh, node, **changes):
    """Returns the new one and the log line of the old one's end."""
    new = Replacement(mesh, node, **changes).wait_ready()
    line = leave(node.ztunnel)
    node.ztunnel = new.process
    return new, line


def count(line, name):
    return int(re.search(rf"\b{name}=(\d+)", line)[1])
