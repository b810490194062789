"""./dev bench: what the proxies cost, beside the direct path and, with --peer, beside another proxy, all in one run.

Every figure of a row comes from the same minutes on the same machine, the paths taking turns (direct, ours, peer, direct, …), and
is the median of --rounds turns; ratios between columns mean something, figures of different runs do not. CPU is user and system time
of both proxies together, as the kernel counts it for their processes.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from paths import Failed, Path, cubic_allowed  # noqa: E402
from harness.netns import sweep_stale  # noqa: E402
from works import Settings, all_works  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="BINARY", help="another proxy to measure, turn by turn: run in dedicated mode, with istio/ztunnel's environment names; "
                        "or another build of ours")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each path, of which the median counts (default 3)")
    parser.add_argument("--seconds", type=int, metavar="N", help="length of a turn (default 4); many short turns beside each other bear a machine that others use")
    parser.add_argument("--anew", action="store_true", help="new processes for each turn: two processes of one program differ by up to 10 %% for as long as they live")
    parser.add_argument("--one-cpu", action="store_true", help="everything on one CPU: what a wake-up costs depends on where the kernel puts the programs, more than on what they do")
    parser.add_argument("--only", metavar="WORDS", help="only works whose name contains one of these comma-separated words")
    parser.add_argument("--quick", action="store_true", help="one short turn of each: shows that it works, not how fast")
    parser.add_argument("--workers", default="", metavar="N", help="ZTUNNEL_WORKER_THREADS of every proxy (default: the proxies' own)")
    parser.add_argument("--json", default="build/bench.json", metavar="FILE", help="all single results (default build/bench.json)")
    parser.add_argument("--readme", action="store_true", help="puts the table into README.md")
    parser.add_argument("--list", action="store_true", help="names the works and ends")
    parser.add_argument("--bin", default="build/release/bin", help=argparse.SUPPRESS)
    return parser.parse_args()


def machine():
    with open("/proc/cpuinfo") as file:
        info = file.read()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cpus": os.cpu_count(), "vaes": " vaes" in info, "kernel": platform.release(), "mtu": 1500}


def version(binary):
    done = subprocess.run([binary, "version"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def medians(samples):
    """{metric: median} over the rounds that gave it."""
    metrics = dict.fromkeys(metric for sample in samples for metric in sample)
    return {metric: statistics.median(s[metric] for s in samples if metric in s) for metric in metrics}


def print_table(name, by_path, failures):
    names = list(by_path)
    metrics = dict.fromkeys(metric for path in by_path.values() for metric in path)
    print(f"\n{name}")
    for metric in metrics:
        cells = [number(by_path[path].get(metric)) for path in names]
        ratio = ""
        if "peer" in names and by_path["ours"].get(metric) and by_path["peer"].get(metric):
            ratio = f"{by_path['ours'][metric] / by_path['peer'][metric]:.2f}x"
        print(f"  {metric:<46}" + "".join(f"{cell:>12}" for cell in cells) + f"{ratio:>12}")
    for path, text in failures:
        print(f"  {path}: {text}")
    sys.stdout.flush()


def markdown(about, results, names):
    """The table of the README: the medians of every work."""
    peer = "peer" in names
    lines = [f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, {time.strftime('%Y-%m-%d', time.gmtime())}: two namespaces over veth, "
             f"MTU 1500, {about['congestion_control']}, median of {about['rounds']}; CPU is that of both proxies together.", "",
             "| work | metric | " + " | ".join(names) + (" | ours / peer |" if peer else " |"), "|---" * (2 + len(names) + peer) + "|"]
    for result in results:
        by_path = {name: medians(result["samples"][name]) for name in names}
        for metric in dict.fromkeys(metric for path in by_path.values() for metric in path):
            cells = [number(by_path[name].get(metric)) for name in names]
            if peer:
                ours, other = by_path["ours"].get(metric), by_path["peer"].get(metric)
                cells.append(f"{ours / other:.2f}" if ours and other else "")
            lines.append(f"| {result['work']} | {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_readme(text, path="README.md"):
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    with open(path) as file:
        readme = file.read()
    head, rest = readme.split(begin)
    with open(path, "w") as file:
        file.write(head + begin + "\n" + text + "\n" + end + rest.split(end)[1])


def measure(work, paths, options, settings):
    samples, failures = {path.name: [] for path in paths}, []
    for turn in range(1 if options.quick else options.rounds):
        for path in paths if turn % 2 == 0 else reversed(paths):
            try:
                if options.anew:
                    path.start()
                samples[path.name].append(work(path, settings))
            except Failed as failure:
                failures.append((path.name, str(failure)))
                path.start()
    return samples, failures


def main():
    options = arguments()
    settings = Settings(options.quick)
    if options.seconds:
        settings.seconds = options.seconds
    works = all_works(settings)
    if options.only:
        wanted = [word.strip() for word in options.only.split(",")]
        works = {name: work for name, work in works.items() if any(word in name for word in wanted)}
    if options.list:
        print("\n".join(works))
        return 0
    if not works:
        print("bench: --only matches no work; --list names them", file=sys.stderr)
        return 2
    rounds = 1 if options.quick else options.rounds
    load, ours = (os.path.realpath(os.path.join(options.bin, name)) for name in ("zt_load", "ztunnel"))
    workers = {"ZTUNNEL_WORKER_THREADS": options.workers} if options.workers else {}

    if options.one_cpu:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything made here is taken down
    sweep_stale()
    paths, results, broken = [], [], 0
    with cubic_allowed(), tempfile.TemporaryDirectory(prefix="ztt-bench-") as folder:
        try:
            paths.append(Path("direct", load, folder))
            paths.append(Path("ours", load, folder, ours, workers))
            if options.peer:
                # istio/ztunnel knows no embedded CA; its test builds have one of their own.
                ca = {} if "C++" in version(options.peer) else {"FAKE_CA": "true", "EMBEDDED_CA_DIR": ""}
                paths.append(Path("peer", load, folder, os.path.realpath(options.peer), {**workers, **ca}))
            about = machine() | {"congestion_control": paths[0].client.run("sysctl", "-n", "net.ipv4.tcp_congestion_control").strip(),
                                 "rounds": rounds, "seconds": settings.seconds, "ours": version(ours)}
            if options.peer:
                about["peer"] = version(options.peer)
            print(f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}; two namespaces, veth, MTU 1500, {about['congestion_control']}; "
                  f"median of {rounds}")
            print(f"{'':48}" + "".join(f"{path.name:>12}" for path in paths) + (f"{'ours/peer':>12}" if options.peer else ""))
            for name, work in works.items():
                samples, failures = measure(work, paths, options, settings)
                print_table(name, {path: medians(values) for path, values in samples.items()}, failures)
                broken += sum(1 for path, _ in failures if path != "peer")
                results.append({"work": name, "samples": samples, "failures": failures})
        finally:
            for path in paths:
                path.close()
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, "w") as file:
        json.dump({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": about, "results": results}, file, indent=1)
    print(f"\nevery single result: {options.json}")
    if options.readme:
        write_readme(markdown(about, results, [path.name for path in paths]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
