"""./dev bench dns: what the DNS proxy adds to a query, beside nothing, dnsmasq and unbound.

A pod on one node asks a name server on the other (unbound, with two threads). Its queries go there directly, or through a server in
the pod: dnsmasq, unbound, or ztunnel with one worker, to which the agent's rules lead them. Asked are a name of the mesh (local data
to the others), a name that is in the cache, and, one after the other, names that nobody has asked for. For each: the median of what an
answer took at 1,000 queries a second, and answers a second of CPU time of the server in the pod with many queries under way; dnsperf asks.
Figures of one run compare; the machine's other work disturbs latencies, much less CPU time.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../tests/node"))

from harness import mesh as mesh_module  # noqa: E402
from harness.netns import sweep_stale  # noqa: E402
from harness.process import Process, eventually  # noqa: E402
from paths import cpu_seconds  # noqa: E402

MESH_NAME, VIP, CACHED = "web.shop.svc.cluster.local", "10.96.0.10", "www.example.com"
PORT = 5300


def unbound_conf(folder, name, listen, port, threads, zones, forward=None):
    path = os.path.join(folder, f"{name}.conf")
    lines = ["server:", f"interface: {listen}", f"port: {port}", f"num-threads: {threads}", "access-control: 0.0.0.0/0 allow", 'chroot: ""',
             'username: ""', "do-daemonize: no", "use-syslog: no", 'logfile: ""', "so-reuseport: yes", f'pidfile: "{folder}/{name}.pid"',
             "module-config: iterator", "do-not-query-localhost: no", *zones]
    if forward:
        lines += ["forward-zone:", 'name: "."', f"forward-addr: {forward}"]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def redirect_zone(name, ip, ttl):
    return [f'local-zone: "{name}." redirect', f'local-data: "{name}. {ttl} A {ip}"']


class Bench:
    def __init__(self, mesh, seconds):
        self.mesh, self.seconds = mesh, seconds
        self.client = mesh.nodes[0].pod("client", namespace="shop")
        self.plain = mesh.nodes[0].pod("plain", captured=False)
        self.names = mesh.nodes[1].pod("names", captured=False)
        web = mesh.nodes[1].pod("web", captured=False)
        mesh.service("web", VIP, 80, 8080, [web])
        conf = unbound_conf(mesh.folder, "upstream", self.names.ip, 53, 2,
                            redirect_zone("example.com", "192.0.2.1", 300) + redirect_zone(MESH_NAME, VIP, 30))
        self.start("upstream", ["unbound", "-d", "-p", "-c", conf], self.names)
        mesh.start(ZTUNNEL_WORKER_THREADS="1", RUST_LOG="error")
        conf = unbound_conf(mesh.folder, "local", "127.0.0.1", PORT + 1, 1, redirect_zone(MESH_NAME, VIP, 30), self.names.ip)
        self.paths = {
            "direct": (self.plain, self.names.ip, 53, None),
            "dnsmasq": (self.plain, "127.0.0.1", PORT, self.start("dnsmasq", [
                "dnsmasq", "-k", "-C", "/dev/null", "-R", "-h", "-p", str(PORT), "--listen-address=127.0.0.1", "--bind-interfaces", "-S", self.names.ip,
                f"--host-record={MESH_NAME},{VIP}", "-c", "10000", "-0", "1000", "--user=root"], self.plain)),
            "unbound": (self.plain, "127.0.0.1", PORT + 1, self.start("unbound", ["unbound", "-d", "-p", "-c", conf], self.plain)),
            "ztunnel": (self.client, self.names.ip, 53, mesh.nodes[0].ztunnel),
        }
        for name in self.paths:
            eventually(lambda n=name: self.ask(n, [CACHED], "-n", "1")[1] == 1, f"an answer of {name}")
        self.fresh = 0

    def start(self, name, command, pod):
        process = Process(name, command, netns=pod.netns)
        self.mesh.processes.append(process)
        return process

    def ask(self, path, names, *options):
        """dnsperf's output, and how many answers there were."""
        pod, server, port, _ = self.paths[path]
        file = os.path.join(self.mesh.folder, "queries")
        with open(file, "w") as out:
            out.writelines(f"{name} A\n" for name in names)
        text = pod.netns.run("dnsperf", "-s", server, "-p", str(port), "-d", file, *options)
        return text, int(re.search(r"Queries completed: +(\d+)", text).group(1))

    def fresh_names(self, count):
        self.fresh += count
        return [f"n{self.fresh - i}.example.com" for i in range(count)]

    def median_us(self, path, kind):
        names = self.fresh_names(2000) if kind == "fresh" else [CACHED if kind == "cached" else MESH_NAME]
        limit = ["-n", "1"] if kind == "fresh" else ["-l", "2"]
        text, _ = self.ask(path, names, *limit, "-Q", "1000", "-c", "1", "-v")  # with -q 1 dnsperf itself sleeps now and then
        return statistics.median(float(x) for x in re.findall(r"^> \S+ \S+ \S+ ([\d.]+)$", text, re.M)) * 1e6

    def rate(self, path, kind):
        """Answers a second of the server's CPU, and of the clock."""
        process = self.paths[path][3]
        names = self.fresh_names(20000) if kind == "fresh" else [CACHED if kind == "cached" else MESH_NAME]
        limit = ["-n", "1"] if kind == "fresh" else ["-l", str(self.seconds)]
        before, began = process and cpu_seconds(process.pid), time.monotonic()
        _, answered = self.ask(path, names, *limit, "-q", "100", "-c", "4")
        taken = time.monotonic() - began
        return (answered / max(cpu_seconds(process.pid) - before, 1e-6) if process else None), answered / taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/bin"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement of a rate")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    mesh_module.BIN = arguments.bin
    sweep_stale()
    figures = {}
    with mesh_module.Mesh() as mesh:
        bench = Bench(mesh, arguments.seconds)
        for _ in range(arguments.rounds):
            for kind in ("mesh", "cached", "fresh"):
                for path in bench.paths:
                    figures.setdefault(f"{kind} p50", {}).setdefault(path, []).append(bench.median_us(path, kind))
                for path in bench.paths:
                    per_cpu, per_second = bench.rate(path, kind)
                    figures.setdefault(f"{kind} per CPU-s", {}).setdefault(path, []).append(per_cpu)
                    figures.setdefault(f"{kind} per s", {}).setdefault(path, []).append(per_second)
    table = {row: {path: (None if None in values else statistics.median(values)) for path, values in paths.items()} for row, paths in figures.items()}
    print(f"| {'':34} | " + " | ".join(f"{path:>9}" for path in bench.paths) + " |")
    print("|" + "-" * 36 + "|" + "|".join("-" * 11 for _ in bench.paths) + "|")
    words = {"mesh": "a name of the mesh", "cached": "a name in the cache", "fresh": "a name not asked for before"}
    for row, values in table.items():
        kind, what = row.split(" ", 1)
        unit = {"p50": "p50 us", "per CPU-s": "a CPU second", "per s": "a second"}[what]
        print(f"| {words[kind] + ', ' + unit:34} | " + " | ".join(f"{'-' if v is None else f'{v:,.0f}':>9}" for v in values.values()) + " |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
