"""What goes wrong around a proxy: a link that is slow or stuck, files that a kubelet swaps, a clock that jumps, a disk that is full.
And the traffic that must not notice."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

from . import apps
from .mesh import program, write_file


class Traffic:
    """While the context is open, one connection lives in it and echoes, and a new one is made every few milliseconds. None may fail."""

    def __init__(self, client, server, port=8080, pause=0.03):
        self._client, self._address, self._pause = client, (server.ip, port), pause
        self.made, self.failures = 0, []
        self._stop = threading.Event()

    def __enter__(self):
        self._old = self._client.connect(*self._address)
        self._once()
        self._thread = apps.start(self._run)
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join()
        if kind is None:
            assert not self.failures, (self.made, self.failures)
            self._once()
        self._old.close()

    @staticmethod
    def _echo(sock):
        sock.sendall(b"x")
        assert sock.recv(1) == b"x", "the stream ended"

    def _once(self):
        with self._client.connect(*self._address) as sock:
            self._echo(sock)
        self._echo(self._old)
        self.made += 1

    def _run(self):
        while not self._stop.wait(self._pause):
            try:
                self._once()
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))


class Link:
    """A TCP relay to a port of the same namespace. `pace`: bytes a second and direction; `delay`: seconds before each piece; hold() lets
    connections come in and nothing pass, until go()."""

    def __init__(self, netns, port, target, pace=None, delay=0.0):
        self.pace, self.delay = pace, delay
        self._open = threading.Event()
        self._open.set()
        self._netns, self._target, self._sockets = netns, target, []
        self._listener = netns.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen()
        self.address = f"https://127.0.0.1:{port}"
        apps.start(self._accept)

    def hold(self):
        self._open.clear()

    def go(self):
        self._open.set()

    def close(self):
        self._open.set()
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self):
        while True:
            try:
                near = self._listener.accept()[0]
                far = self._netns.socket()
                self._sockets += [near, far]
                far.connect(("127.0.0.1", self._target))
            except OSError:
                return
            for pair in ((near, far), (far, near)):
                apps.start(lambda pair=pair: self._relay(*pair))

    def _relay(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(min(65536, self.pace // 50) if self.pace else 65536):
                self._open.wait()
                time.sleep(len(data) / self.pace if self.pace else self.delay)  # this is the slow link itself
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Mount:
    """A folder as the kubelet fills it from a Secret or ConfigMap: each name is a link to ..data/name, ..data is a link to a folder with
    all that belongs together, and a change is one rename of that link."""

    def __init__(self, path, files):
        self.path, self._versions = path, 0
        os.mkdir(path)
        self.swap(files)

    def swap(self, files):
        """All there is from now on: name → text."""
        self._versions += 1
        before, version = (os.path.join(self.path, f"..version_{n}") for n in (self._versions - 1, self._versions))
        os.mkdir(version)
        for name, text in files.items():
            write_file(os.path.join(version, name), text)
            if not os.path.lexists(self.file(name)):
                os.symlink(f"..data/{name}", self.file(name))
        os.symlink(os.path.basename(version), os.path.join(self.path, "..data_tmp"))
        os.rename(os.path.join(self.path, "..data_tmp"), os.path.join(self.path, "..data"))
        shutil.rmtree(before, ignore_errors=True)

    def file(self, name):
        return os.path.join(self.path, name)


class Authority:
    """A root as operators bring it along, made by openssl."""

    def __init__(self, folder, name):
        self._path = lambda what: os.path.join(folder, f"{name}.{what}")
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/O={name}",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self._path("key"), "-out", self._path("pem"))
        self.certificate = self._read("pem")

    def _read(self, what):
        with open(self._path(what)) as file:
            return file.read()

    def secret(self, *other_roots):
        """What EMBEDDED_CA_DIR is to hold."""
        return {"ca-cert.pem": self.certificate, "ca-key.pem": self._read("key"), "cert-chain.pem": "",
                "root-cert.pem": self.certificate + "".join(other.certificate for other in other_roots)}

    def revoke(self, *serials):
        """The list that says so, of serial numbers as openssl writes them."""
        write_file(self._path("index"), "".join(f"R\t491231235959Z\t250101000000Z\t{serial}\tunknown\t/CN=x\n" for serial in serials))
        write_file(self._path("config"), f"[ca]\ndefault_ca=us\n[us]\ndatabase={self._path('index')}\ndefault_md=sha256\ndefault_crl_days=2\n")
        return _openssl("ca", "-gencrl", "-config", self._path("config"), "-keyfile", self._path("key"), "-cert", self._path("pem"))


def _openssl(*words):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


class WallClock:
    """The calendar time of the programs that get `environment`, moved by jump() while they run (tests/support/clock)."""

    def __init__(self, folder):
        self._file = os.path.join(folder, "clock")
        with open(self._file, "xb") as file:
            file.write(struct.pack("=q", 0))
        self.environment = {"LD_PRELOAD": program("wall_clock.so"), "WALL_CLOCK_FILE": self._file}

    def jump(self, hours):
        """To so many hours from the true time, at once."""
        with open(self._file, "r+b") as file:  # in place: it is mapped
            file.write(struct.pack("=q", 3600 * hours))


@contextlib.contextmanager
def small_disk(path, options):
    """A tmpfs of these sizes at `path`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
