"""./dev bench state --yaml: what a local file of so many workloads costs a proxy, beside another proxy with --peer.

For each size: from the start of the process until it is ready, the most memory it ever took and what it keeps, both beside the same
proxy with an empty file; then one line of the file is edited, and what that takes until the edit is in force, in time and memory (a
peer that reads its file only once shows none). While the edit is read, another thread asks the readiness server every few
milliseconds: its longest answer is shown, and the longest that a worker was busy with anything since the start, which is what
traffic would have waited for.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from paths import Failed, _status_bytes  # noqa: E402
from harness import dedicated  # noqa: E402
from harness.netns import Netns, sweep_stale  # noqa: E402
from harness.process import Process  # noqa: E402

READY, STATS = 15021, 15020


def mesh_lines(count):
    """A mesh as istiod describes one: 15 workloads a service, 30 services a namespace, 110 pods a node."""
    services = max(1, count // 15)
    yield "workloads:\n"
    for i in range(count):
        of, node = i % services, i // 110
        app, ns = f"app-{of}", f"team-{of // 30}"
        name = f"{app}-{of * 2654435761 % 2**32:08x}-{i:05x}"
        yield (f"- uid: Kubernetes//Pod/{ns}/{name}\n  name: {name}\n  namespace: {ns}\n  serviceAccount: {app}\n  protocol: HBONE\n"
               f"  workloadIps: [20.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}]\n  node: node-{node}\n  network: \"\"\n  workloadType: pod\n"
               f"  workloadName: {app}\n  canonicalName: {app}\n  services: {{{ns}/{app}.{ns}.svc.cluster.local: {{80: 8080, 9090: 9090}}}}\n")
    yield "services:\n"
    for i in range(services):
        app, ns = f"app-{i}", f"team-{i // 30}"
        yield (f"- {{name: {app}, namespace: {ns}, hostname: {app}.{ns}.svc.cluster.local, vips: [/10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}], "
               "ports: {80: 8080, 9090: 9090}}\n")
    yield "policies: []\n"


def answer(netns):
    """Whether the readiness server says yes."""
    try:
        with netns.socket() as sock:
            sock.settimeout(10)
            sock.connect(("127.0.0.1", READY))
            sock.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in sock.recv(64)
    except OSError:
        return False


def longest_turn(netns):
    """Seconds, of the worker that had it; nothing for a proxy that does not say."""
    try:
        with netns.socket() as sock:
            sock.settimeout(10)
            sock.connect(("127.0.0.1", STATS))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(65536), b""))
    except OSError:
        return None
    return max((float(value) for value in re.findall(rb"^zt_worker_longest_turn_seconds{[^}]*} (\S+)", text, re.M)), default=None)


class Probe(threading.Thread):
    """Asks again and again; `longest` is the longest time that an answer took."""

    def __init__(self, netns):
        super().__init__(daemon=True)
        self.netns, self.longest, self.ended = netns, 0.0, threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(0.005):
            begin = time.monotonic()
            answer(self.netns)
            self.longest = max(self.longest, time.monotonic() - begin)

    def end(self):
        self.ended.set()
        self.join()
        return self.longest


def settled(pid, quiet=2.0, limit=10.0):
    size, since, end = _status_bytes(pid, "VmRSS"), time.monotonic(), time.monotonic() + limit
    while time.monotonic() < min(since + quiet, end):
        time.sleep(0.2)
        now = _status_bytes(pid, "VmRSS")
        if now != size:
            size, since = now, time.monotonic()
    return size


def measure(binary, environment, netns, file, count):
    """One start, and one edit; MB are beside the empty proxy only where the caller takes the difference."""
    with open(file, "w") as out:
        out.writelines(mesh_lines(count) if count else ["workloads: []\nservices: []\npolicies: []\n"])
    row = {"workloads": count, "file": os.path.getsize(file)}
    begin = time.monotonic()
    process = Process("proxy", [binary, "proxy"], environment, netns)
    try:
        while not answer(netns):
            if not process.alive() or time.monotonic() - begin > 120:
                raise Failed(f"did not become ready: {process.text()[-500:]}")
            time.sleep(0.005)
        row["ready_s"] = time.monotonic() - begin
        row["peak"], row["after"] = _status_bytes(process.pid, "VmHWM"), settled(process.pid)
        if count:
            row.update(edit(process, netns, file))
    finally:
        process.kill()
    return row


def edit(process, netns, file):
    with open(file) as source:
        text = source.read()
    at = text.rindex("  node: node-", 0, text.index("services:\n- {"))
    with open(file + ".new", "w") as out:
        out.write(text[:at] + re.sub(r"node-\d+", "node-edited", text[at:], count=1))
    with open(f"/proc/{process.pid}/clear_refs", "w") as reset:
        reset.write("5")  # the peak, from here on
    mark, probe = process.mark(), Probe(netns)
    begin = time.monotonic()
    os.rename(file + ".new", file)
    try:
        process.wait_line("local configuration read", since=mark, timeout=30)
    except AssertionError:
        probe.end()
        return {}  # it reads its file once
    return {"edit_s": time.monotonic() - begin, "edit_probe_s": probe.end(), "edit_peak": _status_bytes(process.pid, "VmHWM"),
            "edit_after": settled(process.pid), "turn_s": longest_turn(netns)}


def main():
    parser = argparse.ArgumentParser(prog="./dev bench state --yaml", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[10_000, 100_000], metavar="WORKLOADS", help="default 10000 100000")
    parser.add_argument("--peer", metavar="BINARY", help="another proxy to measure, after each of ours")
    parser.add_argument("--json", metavar="FILE", help="all results")
    parser.add_argument("--bin", default="build/release/bin", help=argparse.SUPPRESS)
    options = parser.parse_args()
    binaries = {"ours": os.path.join(os.path.realpath(options.bin), "ztunnel")}
    if options.peer:
        binaries["peer"] = os.path.realpath(options.peer)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sweep_stale()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ztt-bench-") as folder:
        netns = Netns("state-yaml")
        try:
            netns.ip("link", "set", "lo", "up")
            print(f"{'':6}{'workloads':>10}{'file MB':>9}{'ready s':>9}{'peak MB':>9}{'kept MB':>9}{'edit s':>9}{'peak MB':>9}{'kept MB':>9}{'probe ms':>9}{'turn ms':>9}")
            empty = {}
            for count in [0, *options.sizes]:
                for name, binary in binaries.items():
                    file = os.path.join(folder, "mesh.yaml")
                    environment = {**dedicated.environment(file, os.path.join(folder, "ca"), "bench/none/none"), "RUST_LOG": "info"}
                    if name == "peer":
                        environment |= {"FAKE_CA": "true", "EMBEDDED_CA_DIR": ""}
                    row = measure(binary, environment, netns, file, count) | {"proxy": name}
                    rows.append(row)
                    base = empty.setdefault(name, row)

                    def mb(key, beside=0, row=row):
                        return f"{(row[key] - beside) / 1e6:9.1f}" if key in row else f"{'-':>9}"

                    def number(key, scale=1, row=row):
                        return f"{row[key] * scale:9.2f}" if row.get(key) is not None else f"{'-':>9}"

                    beside = base["after"] if count else 0
                    print(f"{name:6}{count:>10}{mb('file')}{number('ready_s')}{mb('peak', beside)}{mb('after', beside)}{number('edit_s')}"
                          f"{mb('edit_peak', beside)}{mb('edit_after', beside)}{number('edit_probe_s', 1000)}{number('turn_s', 1000)}", flush=True)
        finally:
            netns.delete()
    print("memory of a mesh is what the proxy takes beyond its memory with an empty file, which the rows of 0 show")
    if options.json:
        with open(options.json, "w") as out:
            json.dump(rows, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
