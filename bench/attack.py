"""./dev bench attack: what hostile peers can do to the node's proxy, and to those who have nothing to do with them.

Two nodes as tests/node makes them: a client pod on the first calls a server pod on the second, a hundred connections of it stand
idle beside. A stranger on the first node, outside of the mesh, attacks the server's 15008; where the attack needs one, with a certificate of its own.
For each attack, in one run: the proxy's memory before, at its highest and after; the 99th percentile of small requests undisturbed,
while the same attack goes to the proxy of a third node (what attacker and attacked take from the CPUs that all share is no fault of
the proxy that is judged), and while it goes to the server's; whether all connections live. A line that breaks its promise is marked,
and the exit status is 1.

Attacks are bounded in time and count and go to addresses in these namespaces only.
"""

import argparse
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../tests/node")]

from attacks import ATTACKS, UNAUTHENTICATED  # noqa: E402
from harness import apps, hbone, mesh as mesh_module  # noqa: E402
from harness.istiod import ControlledMesh, workload  # noqa: E402
from harness.netns import sweep_stale  # noqa: E402
from harness.process import Process  # noqa: E402

PORT = 5001
HELD = 100
SOURCES = 8
# What an attack may make the proxy hold on top of what it held, and keep when it is over.
BUDGET_MB, LEFT_MB = 64, 16
P99_RATIO = 1.5
SLOW = f"small requests' p99 more than {P99_RATIO} times"
P99_NOISE_US = 2000  # on two CPUs that the attacker shares, differences below this say nothing


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024


class Peak:
    """The highest resident size of a process while the context lasts."""

    def __init__(self, pid):
        self.pid, self.megabytes, self._over = pid, resident(pid), threading.Event()

    def __enter__(self):
        def watch():
            while not self._over.wait(0.05):
                self.megabytes = max(self.megabytes, resident(self.pid))
        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


class Field:
    """The nodes, the pods and what runs in them."""

    def __init__(self, mesh, load):
        self.mesh, self.load = mesh, load
        first, last = mesh.nodes[0], mesh.nodes[1 if len(mesh.nodes) > 1 else 0]
        self.client, self.scanner = first.pod("client"), first.pod("scanner")
        self.stranger = first.pod("stranger", captured=False)
        self.server = last.pod("server")
        self.sources = [f"{self.stranger.ip.rsplit('.', 1)[0]}.{200 + i}" for i in range(SOURCES)]
        for source in self.sources:
            self.stranger.netns.ip("addr", "add", f"{source}/32", "dev", "eth0")
            first.netns.ip("route", "add", f"{source}/32", "via", self.stranger.ip)
        for pod in mesh.pods:
            for key, value in (("net.ipv4.ip_local_port_range", "1024 65000"), ("net.core.somaxconn", 4096)):
                pod.netns.sysctl(key, value)
        self.sink = Process("load server", [load, "serve", "--port", str(PORT)], netns=self.server.netns)
        mesh.processes.append(self.sink)
        self.sink.wait_line("ready")
        self.elsewhere = None
        if len(mesh.nodes) > 2:
            self.elsewhere = mesh.nodes[2].pod("elsewhere")
            other = Process("load server elsewhere", [load, "serve", "--port", str(PORT)], netns=self.elsewhere.netns)
            mesh.processes.append(other)
            other.wait_line("ready")
        self.held = []

    @property
    def proxy(self):
        return self.server.node.ztunnel

    def hold(self):
        """Connections that stand idle; each echoes a byte on request."""
        for _ in range(HELD):
            sock = self.client.connect(self.server.ip, PORT)
            sock.sendall(struct.pack("=cBHIQ", b"e", 0, 0, 1, 1))
            self.held.append(sock)
        assert self.living() == HELD

    def living(self):
        count = 0
        for sock in self.held:
            try:
                sock.sendall(b"x")
                count += apps.read_exactly(sock, 1) is not None
            except (OSError, AssertionError):
                pass
        return count

    def p99(self, seconds):
        command = [*self.client.netns.prefix(), self.load, "requests", "--to", f"{self.server.ip}:{PORT}", "--conns", "16", "--rate", "500", "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + seconds)
        return json.loads(done.stdout)["latency"]["p99_us"] if done.returncode == 0 else None

    def attacker(self, name, seconds, attacked):
        to, port, pod = attacked.ip, 15008, self.stranger
        words = []
        if name == "admin":
            to, port, pod = attacked.node.netns_address, 15021, self.stranger
        elif name == "scan":
            pod = self.scanner
        else:
            words += ["--sources", ",".join(self.sources)]
        if name not in UNAUTHENTICATED:
            leaf, key = hbone.certificate(self.mesh.folder, self.mesh.ca_folder, "spiffe://cluster.local/ns/shop/sa/stranger")
            words += ["--root", os.path.join(self.mesh.ca_folder, hbone.ROOT), "--leaf", leaf, "--key", key]
        command = [*pod.netns.prefix(), sys.executable, os.path.join(HERE, "attacks.py"), name, "--to", to, "--port", str(port),
                   "--authority", f"{attacked.ip}:{PORT}", "--seconds", str(seconds), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def p99_under(self, name, seconds, attacked):
        """Small requests' p99 while `attacked` is attacked; what the attacker said that it did; what went wrong with it, or None."""
        attacker = self.attacker(name, seconds + 2, attacked)
        try:
            time.sleep(1)  # so that it is under way: what is measured lasts for `seconds` from here
            measured = self.p99(seconds)
            said, errors = attacker.communicate(timeout=seconds + 30)
        finally:
            if attacker.poll() is None:
                attacker.kill()
                attacker.communicate()
        return measured, said, None if attacker.returncode == 0 else f"the attacker failed: {errors.strip().splitlines()[-1:]}"


def undisturbed(quiet, elsewhere):
    return max(quiet, elsewhere or 0)


def run(field, name, seconds, judge_latency):
    """One attack: {column: value}, and what is wrong with it."""
    wrong = []
    elsewhere = field.p99_under(name, seconds, field.elsewhere)[0] if judge_latency and field.elsewhere else None
    quiet = field.p99(seconds)
    before = resident(field.proxy.pid)
    with Peak(field.proxy.pid) as peak:
        during, said, failed = field.p99_under(name, seconds, field.server)
    if failed:
        wrong.append(failed)
    if not field.proxy.alive():
        wrong.append("the proxy is gone")
        return {"did": said.strip()}, wrong
    after, deadline = resident(field.proxy.pid), time.monotonic() + 12
    while after > before + LEFT_MB and time.monotonic() < deadline:
        time.sleep(0.25)
        after = resident(field.proxy.pid)
    living = field.living()
    if peak.megabytes > before + BUDGET_MB:
        wrong.append(f"memory grew by more than {BUDGET_MB} MB")
    if after > before + LEFT_MB:
        wrong.append(f"kept more than {LEFT_MB} MB of it")
    if during is None:
        wrong.append("small requests failed")
    elif judge_latency and quiet is not None and during > max(P99_RATIO * undisturbed(quiet, elsewhere), quiet + P99_NOISE_US):
        wrong.append(SLOW)
    if living != len(field.held):
        wrong.append("connections were lost")
    return {"before": before, "peak": peak.megabytes, "after": after, "quiet": quiet, "elsewhere": elsewhere, "during": during, "living": living,
            "did": json.loads(said) if said.strip() else {}}, wrong


def run_judged(field, name, seconds, judge_latency):
    """The same; if nothing but its latency breaks the promise it is run twice more and the median counts: on two CPUs that the attacker
    shares, one measurement's p99 varies by a factor of two."""
    runs = [run(field, name, seconds, judge_latency)]
    if runs[0][1] == [SLOW]:
        runs += [run(field, name, seconds, judge_latency) for _ in range(2)]
        broken = [r for r in runs if r[1] not in ([], [SLOW])]
        runs.sort(key=lambda r: (r[0].get("during") or 0) / undisturbed(r[0].get("quiet") or 1, r[0].get("elsewhere")))
        return broken[0] if broken else runs[1]
    return runs[0]


def labels_cost(field):
    return len(field.server.node.http(15020, "/metrics")[1])


def main():
    parser = argparse.ArgumentParser(prog="./dev bench attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", help="only attacks whose name contains one of these comma-separated words")
    parser.add_argument("--seconds", type=int, default=4, help="how long each is measured (default 4)")
    parser.add_argument("--quick", action="store_true", help="a second of each: memory and connections are judged, latency is not")
    parser.add_argument("--json", default="build/attack.json", metavar="FILE")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--bin", default="build/release/bin", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [n for n in ATTACKS if not options.only or any(word.strip() in n for word in options.only.split(","))]
    if options.list:
        print("\n".join(names))
        return 0
    mesh_module.BIN = os.path.realpath(options.bin)
    seconds = 1 if options.quick else options.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sweep_stale()
    results, broken = [], 0
    heading = f"{'attack':<26}{'MB before':>10}{'peak':>8}{'after':>8}{'p99 us quiet':>14}{'elsewhere':>11}{'attacked':>10}{'/quiet':>8}{'/elsewhere':>12}{'living':>9}"
    print(heading)

    def report(name, figures, wrong):
        nonlocal broken
        broken += bool(wrong)
        results.append({"attack": name, **figures, "wrong": wrong})
        if "before" in figures:
            ratios = [figures["during"] / figures[to] if figures["during"] and figures[to] else float("nan") for to in ("quiet", "elsewhere")]
            print(f"{name:<26}{figures['before']:>10.1f}{figures['peak']:>8.1f}{figures['after']:>8.1f}{figures['quiet'] or 0:>14,.0f}{figures['elsewhere'] or 0:>11,.0f}"
                  f"{figures['during'] or 0:>10,.0f}{ratios[0]:>8.2f}{ratios[1]:>12.2f}{figures['living']:>5}/{HELD}  {json.dumps(figures['did'])}")
        for text in wrong:
            print(f"    BROKEN: {text}")
        sys.stdout.flush()

    with mesh_module.Mesh(nodes=3) as mesh:
        for node in mesh.nodes:
            node.netns_address = f"192.168.{75 + max(node.number, 2)}.{node.number}"
        field = Field(mesh, os.path.join(mesh_module.BIN, "zt_load"))
        # An upgrade's worth of log would be measured too; what is refused is logged at its own limited rate.
        mesh.start(RUST_LOG="info", ISTIO_META_DNS_CAPTURE="false")
        field.hold()
        field.p99(1)
        for name in names:
            if name == "scan":
                continue  # needs a control plane that is asked, below
            scrape = labels_cost(field) if name == "labels" else 0
            figures, wrong = run_judged(field, name, seconds, not options.quick)
            if name == "labels":
                grown = labels_cost(field)
                figures["did"]["scrape KB"] = [round(scrape / 1024), round(grown / 1024)]
                if grown > scrape + 2 * 1024 * 1024:
                    wrong.append("a scrape has grown by more than 2 MB")
            if name == "admin" and field.server.node.http(15021, "/healthz/ready")[0] != 200:
                wrong.append("readiness is shut out")
            report(name, figures, wrong)
            if not field.proxy.alive():
                print(field.proxy.text()[-3000:])
                return 1
    if "scan" in names:
        with ControlledMesh() as mesh:
            field = Field(mesh, os.path.join(mesh_module.BIN, "zt_load"))
            mesh.istiod.addresses(*(workload(pod) for pod in mesh.pods if pod.captured), aliases={
                f"Kubernetes//Pod/{pod.namespace}/{pod.name}": [f"/{pod.ip}"] for pod in mesh.pods if pod.captured})
            mesh.istiod.policies()
            mesh.istiod.say("node", mesh.node.name)
            mesh.start(RUST_LOG="info", XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false")
            field.hold()
            report("scan", *run_judged(field, "scan", seconds, not options.quick))
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, "w") as file:
        json.dump(results, file, indent=1)
    print(f"\n{len(results) - broken} held, {broken} broken; median of p99 ratios to quiet "
          f"{statistics.median([r['during'] / r['quiet'] for r in results if r.get('during') and r.get('quiet')] or [0]):.2f}, to elsewhere "
          f"{statistics.median([r['during'] / r['elsewhere'] for r in results if r.get('during') and r.get('elsewhere')] or [0]):.2f}; all figures: {options.json}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
