"""./dev bench ways: what a connection costs on the ways that differ from a tunnel to another node.

Same node: on each of two nodes a client and a server pod; on the first the proxy goes without a tunnel, on the second it is told to make one
(ZT_LOCAL_DIRECT=false). Another network: one client calls a service whose pod is behind a gateway (a small program in Python, which ends the
outer tunnel and passes on the inner one) and the same pod's twin straight; CPU is that of both proxies, without the gateway.
The ways take turns; a figure is the median of --rounds turns. Ratios within a run mean something, figures of different runs do not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../tests/node")]

from harness import mesh as mesh_module  # noqa: E402
from harness.gateway import Gateway  # noqa: E402
from harness.netns import sweep_stale  # noqa: E402
from harness.process import Process  # noqa: E402

PORT, VIP, FAR_VIP = 5001, "10.96.0.10", "10.96.0.11"
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(processes):
    total = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


class Bench:
    def __init__(self, binaries, seconds):
        self.load, self.seconds = os.path.join(os.path.realpath(binaries), "zt_load"), seconds

    def serve(self, mesh, pod):
        server = Process("load server", [self.load, "serve", "--port", str(PORT)], netns=pod.netns)
        mesh.processes.append(server)
        server.wait_line("ready")

    def run(self, pod, to, *words):
        done = subprocess.run([*pod.netns.prefix(), self.load, words[0], "--to", to, *map(str, words[1:])], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise SystemExit(f"zt_load {' '.join(map(str, words))} to {to}: {done.stderr}")
        return json.loads(done.stdout)

    def cost(self, way, unit, *words):
        """CPU of the proxies for each `unit` of what the load did."""
        pod, to, proxies = way
        self.run(pod, to, *words, "--seconds", 1)  # tunnels stand
        before = cpu_seconds(proxies)
        got = self.run(pod, to, *words, "--seconds", self.seconds)
        spent = cpu_seconds(proxies) - before
        return spent / (got["bytes"] / 1e9) if unit == "bytes" else spent / got[unit] * 1e6


def same_node(bench):
    with mesh_module.Mesh() as mesh:
        ways = {}
        for node, name, direct in zip(mesh.nodes, ("without a tunnel", "through a tunnel"), ("true", "false")):
            client, server = node.pod(f"client-{node.number}"), node.pod(f"server-{node.number}")
            plain = node.proxy_env
            node.proxy_env = lambda plain=plain, direct=direct, **changes: {**plain(**changes), "ZT_LOCAL_DIRECT": direct, "RUST_LOG": "info"}
            ways[name] = (client, f"{server.ip}:{PORT}", node)
        mesh.start()
        for pod in mesh.pods:
            if pod.name.startswith("server"):
                bench.serve(mesh, pod)
        yield {name: (client, to, [node.ztunnel]) for name, (client, to, node) in ways.items()}


def networks(bench):
    with mesh_module.Mesh() as mesh:
        first, second = mesh.nodes
        client, far, near = first.pod("client"), second.pod("far"), second.pod("near")
        gateway = second.pod("gateway", captured=False)
        plain = far.workload
        far.workload = lambda: {**plain(), "network": "net2", "networkGateway": {"destination": f"/{gateway.ip}", "hboneMtlsPort": 15008}}
        environment = second.proxy_env
        second.proxy_env = lambda **changes: {**environment(**changes), "RUST_LOG": "info"}
        for name, vip, pod in (("far", FAR_VIP, far), ("near", VIP, near)):
            mesh.service(name, vip, 80, PORT, [pod])
            mesh.services[-1][0]["subjectAltNames"] = [pod.identity]
        mesh.start()
        for pod in (far, near):
            bench.serve(mesh, pod)
        # It goes first to whoever its proxy listens for in the other network: there the authority is the service's name.
        Gateway(gateway, mesh, {"far.shop.svc.cluster.local:80": (far.ip, 15008)})
        proxies = [first.ztunnel, second.ztunnel]
        yield {"in a tunnel to a gateway": (client, f"{FAR_VIP}:80", proxies), "through a tunnel": (client, f"{VIP}:80", proxies)}


WORKS = [
    (same_node, "bulk, 1 connection down: CPU-s per GB", "bytes", ("bulk", "--conns", 1), 0.35),
    (same_node, "bulk, 8 connections up: CPU-s per GB", "bytes", ("bulk", "--conns", 8, "--up"), 0.35),
    (same_node, "1 KiB requests, 1 connection: CPU-us each", "requests", ("requests", "--conns", 1, "--rate", 0), 0.6),
    (same_node, "1 KiB requests, 16 connections: CPU-us each", "requests", ("requests", "--conns", 16, "--rate", 0), 0.6),
    (same_node, "1 KiB requests at 1000/s: CPU-us each", "requests", ("requests", "--conns", 16, "--rate", 1000), 0.6),
    (same_node, "new connections, 1 at a time: CPU-us each", "connections", ("connections", "--parallel", 1), None),
    (same_node, "new connections, 16 at a time: CPU-us each", "connections", ("connections", "--parallel", 16), None),
    (networks, "new connections, 1 at a time: CPU-us each", "connections", ("connections", "--parallel", 1), 1.3),
    (networks, "new connections, 16 at a time: CPU-us each", "connections", ("connections", "--parallel", 16), 1.3),
]


def main():
    parser = argparse.ArgumentParser(prog="./dev bench ways", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/bin"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each turn")
    parser.add_argument("--only", choices=("same_node", "networks"))
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    mesh_module.BIN = options.bin
    sweep_stale()
    bench, table = Bench(options.bin, options.seconds), []
    for place in (same_node, networks):
        if options.only not in (None, place.__name__):
            continue
        for ways in place(bench):
            names = list(ways)
            print(f"\n{'':48}" + "".join(f"{name:>26}" for name in names) + f"{'ratio':>8}{'aim':>6}")
            for _, work, unit, words, aim in (w for w in WORKS if w[0] is place):
                figures = {name: [] for name in names}
                for turn in range(options.rounds):
                    for name in names if turn % 2 == 0 else reversed(names):
                        figures[name].append(bench.cost(ways[name], unit, *words))
                ours, other = (statistics.median(figures[name]) for name in names)
                print(f"{work:<48}" + "".join(f"{value:>26.3g}" for value in (ours, other)) + f"{ours / other:>8.2f}{aim or '':>6}", flush=True)
                table.append({"where": place.__name__, "work": work, "figures": figures, "ratio": ours / other, "aim": aim})
    if options.json:
        with open(options.json, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
