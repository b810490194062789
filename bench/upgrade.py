"""./dev bench upgrade: a node's proxy is replaced while connections live.

Two nodes as tests/node makes them, in-pod mode over ZDS. Pods of the first hold connections to pods of the second over so many tunnels; most are idle, some send a
message of 64 bytes every 50 ms and wait for its echo, one moves bytes as fast as it can. Then a new proxy is started
beside that of the first node (or the second: --side server), and the old one is told to end when the new one is ready; from then on new connections are made too.

For each upgrade: what was cut, wrong bytes (each is known by its position), new connections that failed, the longest time that a busy connection waited for an echo
before and during, the longest stop of a unit as the proxy says, CPU of both processes from SIGTERM to the old one's end (in all, and without what the same traffic and new
connections took before), and their memory. A promise that is broken is
marked, and the exit status is 1. With --peer the same is done with another proxy afterwards, on both nodes; what it cuts is shown, and is no failure of this program.
Short of time: --upgrades 200 --connections 500 --tunnels 10 --busy 50 --new 100 is many upgrades under load.
What the programs here take of the two CPUs is in the waits; with 10,000 connections it is most of it.
"""

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../tests/node")]

from harness import mesh as mesh_module  # noqa: E402
from harness.handover import Replacement, count  # noqa: E402
from harness.netns import sweep_stale  # noqa: E402
from run import version  # noqa: E402

PORT, NEW_PORT = 8080, 8081
CLIENTS = 5  # pods
EVERY = 0.05
PATTERN = bytes(i * 7 % 251 for i in range(251 * 512))
LONGEST_STOP_MS, CPU_S, MEMORY_RATIO, MANY = 100, 2, 1.3, 10_000
MOST_OF_A_TUNNEL = 200  # what a server of ours allows


def serve(netns, ready):
    """An echo for any number of connections."""
    with netns.entered():
        listener = socket.create_server(("::", PORT), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)
    listener.setblocking(False)
    poll, socks, kept = select.epoll(), {}, {}
    poll.register(listener, select.EPOLLIN)
    os.write(ready, b"x")

    def drop(fd):
        kept.pop(fd, None)
        socks.pop(fd).close()

    while True:
        for fd, events in poll.poll():
            if fd == listener.fileno():
                try:
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        socks[sock.fileno()] = sock
                        poll.register(sock, select.EPOLLIN)
                except BlockingIOError:
                    continue
            sock = socks[fd]
            try:
                data = kept.pop(fd, None) or sock.recv(256 * 1024)
                if not data:
                    drop(fd)
                    continue
                try:
                    sent = sock.send(data)
                except BlockingIOError:
                    sent = 0
                if sent < len(data):
                    kept[fd] = data[sent:]
                poll.modify(fd, select.EPOLLOUT if fd in kept else select.EPOLLIN)
            except BlockingIOError:
                pass
            except OSError:
                drop(fd)


def hold(netns, addresses, each, busy, control):
    """Holds `each` connections to each address, `busy` of them busy. Commands: a byte, answered with a line of JSON."""
    socks = []
    with netns.entered():
        for address in addresses:
            for _ in range(each):
                sock = socket.create_connection((address, PORT), timeout=30)
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
                socks.append(sock)
    step = max(1, len(socks) // max(1, busy))
    working = socks[::step][:busy]
    waiting, due, wrong, cut, number = {}, [0.0] * len(working), 0, set(), 0
    longest = [0.0] * len(working)
    poll = select.epoll()
    index = {sock.fileno(): i for i, sock in enumerate(working)}
    for i, sock in enumerate(working):
        poll.register(sock, select.EPOLLIN)
        due[i] = time.monotonic() + EVERY * i / max(1, len(working))
    poll.register(control, select.EPOLLIN)
    control.sendall(b"{}\n")
    while True:
        now = time.monotonic()
        for i, sock in enumerate(working):
            if i not in waiting and i not in cut and due[i] <= now:
                number += 1
                text = number.to_bytes(8, "big") * 8
                try:
                    sock.sendall(text)
                    waiting[i] = (now, text, b"")
                except OSError:
                    cut.add(i)
                due[i] = now + EVERY
        for fd, _ in poll.poll(0.005):
            if fd == control.fileno():
                if control.recv(1) != b"?":
                    break
                control.sendall((json.dumps({"longest": longest, "wrong": wrong}) + "\n").encode())
                longest = [0.0] * len(working)
                continue
            i = index[fd]
            try:
                got = working[i].recv(4096)
            except OSError:
                got = b""
            if not got:
                cut.add(i)
                poll.unregister(fd)
                continue
            begun, text, so_far = waiting.get(i, (now, b"", b""))
            so_far += got
            if len(so_far) < len(text):
                waiting[i] = (begun, text, so_far)
                continue
            wrong += so_far != text
            longest[i] = max(longest[i], time.monotonic() - begun)
            waiting.pop(i, None)
        else:
            continue
        break
    # The end: whether all of them live.
    for i, (_, text, so_far) in waiting.items():
        working[i].settimeout(10)
        try:
            while len(so_far) < len(text):
                more = working[i].recv(4096)
                if not more:
                    raise OSError
                so_far += more
            wrong += so_far != text
        except OSError:
            cut.add(i)
    lost = 0
    for sock in socks:
        try:
            sock.settimeout(10)
            sock.sendall(b"alive")
            got = b""
            while len(got) < 5:
                more = sock.recv(5 - len(got))
                if not more:
                    raise OSError
                got += more
            wrong += got != b"alive"
        except OSError:
            lost += 1
    control.sendall((json.dumps({"cut": lost, "wrong": wrong}) + "\n").encode())


class Newcomers:
    """New connections, one after the other on each of PARALLEL, by the load generator: it ends with an error as soon as one fails."""

    PARALLEL = 16

    def __init__(self, program, netns, address, count):
        self.count, self.begun = count, time.monotonic()
        self.child = subprocess.Popen([*netns.prefix(), program, "connections", "--to", f"{address}:{NEW_PORT}", "--parallel", str(self.PARALLEL), "--count", str(count)],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self):
        """(made, failed, seconds)"""
        out, err = self.child.communicate(timeout=600)
        if self.child.returncode != 0:
            print(f"new connections: {err.strip()}", file=sys.stderr)
            return 0, 1, time.monotonic() - self.begun
        done = json.loads(out)
        return done["connections"], self.count - done["connections"], done["seconds"]


def bulk(netns, address, control):
    """One connection that sends all it can and checks the echo."""
    with netns.entered():
        sock = socket.create_connection((address, PORT), timeout=30)
    over, state = threading.Event(), {"sent": 0, "wrong": 0}

    def send():
        while not over.is_set():
            place = state["sent"] % len(PATTERN)
            try:
                state["sent"] += sock.send(PATTERN[place:place + 65536])
            except OSError:
                return
        sock.shutdown(socket.SHUT_WR)

    def end():
        control.recv(1)
        over.set()

    for each in (send, end):
        threading.Thread(target=each, daemon=True).start()
    got = 0
    try:
        while data := sock.recv(262144):
            place = got % len(PATTERN)
            expected = (PATTERN[place:] + PATTERN * (len(data) // len(PATTERN) + 1))[:len(data)]
            state["wrong"] += data != expected
            got += len(data)
    except OSError:
        pass
    cut = not over.is_set() or got != state["sent"]
    control.sendall((json.dumps({"cut": int(cut), "wrong": state["wrong"], "bytes": got}) + "\n").encode())


class Program:
    """A child process with a connection to it."""

    def __init__(self, work, *args):
        self.control, theirs = socket.socketpair()
        self.control.settimeout(300)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.control.close()
                work(*args, theirs)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()

    def answer(self, command=b""):
        try:
            self.control.sendall(command)
        except BrokenPipeError:
            pass  # one that was cut has said so, and ended
        line = b""
        while not line.endswith(b"\n"):
            more = self.control.recv(65536)
            assert more, "a program of the bench has ended"
            line += more
        return json.loads(line)


def start_server(netns):
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            serve(netns, told)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


def resident(pid):
    """MiB; of pages that several processes have, the program's own for one, each has its part."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def cpu(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def upgrade(mesh, node, holders, newcomers, settings):
    """`newcomers()` begins to make new connections."""
    for holder in holders:
        holder.answer(b"?")
    old = node.ztunnel
    # What the proxy takes for what goes on anyhow, and for one new connection: the rest is the upgrade's.
    spent, begun = cpu(old.pid), time.monotonic()
    time.sleep(2)
    steady = (cpu(old.pid) - spent) / (time.monotonic() - begun)
    spent = cpu(old.pid)
    made, _, seconds = newcomers().result()
    for_one = max(0, cpu(old.pid) - spent - steady * seconds) / max(1, made)
    before = [wait for holder in holders for wait in holder.answer(b"?")["longest"]]
    alone = resident(old.pid)
    # From here on there are two.
    new = Replacement(mesh, node, **settings).wait_ready()
    pids = (old.pid, new.process.pid)
    spent, peak, begun = [cpu(pid) for pid in pids], 0.0, time.monotonic()
    first = list(spent)
    arriving = newcomers()
    old.signal(signal.SIGTERM)
    while old.alive():
        try:
            peak = max(peak, sum([resident(pid) for pid in pids]))
            spent = [cpu(pid) for pid in pids]
        except (OSError, StopIteration, ValueError):
            pass  # it is ending
        time.sleep(0.05)
    seconds = time.monotonic() - begun
    made, failed, took = arriving.result()
    meanwhile = made * min(1, seconds / took)
    node.ztunnel = new.process
    lines = old.matching("handed over")
    waits = sorted(wait for holder in holders for wait in holder.answer(b"?")["longest"])
    extra = sum(b - a for a, b in zip(first, spent)) - steady * seconds - for_one * meanwhile
    result = {"moved": count(lines[-1], "connections") if lines else 0, "left": count(lines[-1], "left") if lines else None,
              "longest stop, ms": count(lines[-1], "longest_stop_ms") if lines else None,
              "longest echo before, ms": round(max(before) * 1000, 1), "longest echo during, ms": round(waits[-1] * 1000, 1),
              "p99 of these, ms": round(waits[int(len(waits) * 0.99) - 1] * 1000, 1),
              "CPU-s": round(sum(b - a for a, b in zip(first, spent)), 2), "of these the upgrade's": round(extra, 2), "s": round(seconds, 2),
              "new": made, "of these during it": round(meanwhile), "new failed": failed,
              "memory of both / of one": round(peak / alone, 2), "MiB of one": round(alone, 1)}
    wrong = [] if lines else ["nothing was handed over"]
    for name, limit in (("longest stop, ms", LONGEST_STOP_MS), ("of these the upgrade's", CPU_S), ("memory of both / of one", MEMORY_RATIO)):
        if name.startswith("memory") and result["moved"] < MANY:
            continue  # what a process has at its start
        if result[name] is not None and result[name] > limit:
            wrong.append(f"{name} above {limit}")
    if result["left"]:
        wrong.append("some were left")
    if failed:
        wrong.append("new connections failed")
    return result, wrong


def checked(parser, options):
    """Ends the program, by the option's name, on what could not be measured."""
    for name, least in (("connections", 1), ("tunnels", CLIENTS), ("busy", 0), ("upgrades", 1), ("new", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: at least {least}")
    for name in ("tunnels", "busy"):
        if getattr(options, name) % CLIENTS:
            parser.error(f"--{name} {getattr(options, name)}: a multiple of {CLIENTS}, one part for each client")
    if options.connections % options.tunnels:
        parser.error(f"--connections {options.connections}: a multiple of --tunnels, {options.tunnels}")
    if options.busy > options.connections:
        parser.error(f"--busy {options.busy}: more than there are connections")
    if options.connections // options.tunnels > MOST_OF_A_TUNNEL:
        parser.error(f"--connections {options.connections}: more than {MOST_OF_A_TUNNEL} for each of {options.tunnels} tunnels")
    for program in ("ztunnel", "ztunnel-agent", "zt_load"):
        if not os.access(os.path.join(options.bin, program), os.X_OK):
            parser.error(f"--bin {options.bin}: has no program {program}")
    if options.peer and not os.access(options.peer, os.X_OK):
        parser.error(f"--peer {options.peer}: no program")
    if options.json and not os.path.isdir(os.path.dirname(os.path.abspath(options.json))):
        parser.error(f"--json {options.json}: there is no such folder")
    return options


def measure(options, environment):
    """All upgrades of the proxies that mesh_module.BIN has: (results, what was broken)."""
    each = options.connections // options.tunnels
    settings = {**environment, "POOL_MAX_STREAMS_PER_CONNECTION": str(max(each + 10, 100)), "ZTUNNEL_WORKER_THREADS": "2", "RUST_LOG": "info"}
    children, broken, results, guests = [], [], [], None
    with mesh_module.Mesh() as mesh:
        first, second = mesh.nodes
        clients = [first.pod(f"client{i}") for i in range(CLIENTS)]
        servers = [second.pod(f"server{i}") for i in range(max(1, options.tunnels // CLIENTS))]
        mesh.start(**settings)
        try:
            children += [start_server(server.netns) for server in servers]
            addresses = [server.ip for server in servers]
            holders = [Program(hold, pod.netns, addresses, each, options.busy // CLIENTS) for pod in clients]
            children += [holder.pid for holder in holders]
            for holder in holders:
                holder.answer()
            heavy = Program(bulk, clients[0].netns, addresses[0])
            children.append(heavy.pid)
            load = os.path.join(options.bin, "zt_load")
            guests = subprocess.Popen([*servers[-1].netns.prefix(), load, "serve", "--port", str(NEW_PORT)], stdout=subprocess.DEVNULL)

            def newcomers():
                return Newcomers(load, clients[-1].netns, addresses[-1], options.new)

            node = first if options.side == "client" else second
            for number in range(options.upgrades):
                result, wrong = upgrade(mesh, node, holders, newcomers, settings)
                results.append(result)
                broken += wrong
                while len(mesh.beside) > 2:  # namespaces that nobody is in any more
                    mesh.beside.pop(0).delete()
                print(f"upgrade {number + 1}: " + "  ".join(f"{name} {value}" for name, value in result.items()), flush=True)
            moved = heavy.answer(b".")
            ends = [holder.answer(b".") for holder in holders]
            cut, wrong = (sum(end[name] for end in [*ends, moved]) for name in ("cut", "wrong"))
            print(f"cut {cut}, wrong answers {wrong}, bulk {moved['bytes'] / 1e6:.0f} MB")
            results.append({"cut": cut, "wrong": wrong, "bulk bytes": moved["bytes"]})
            broken += [f"{value} {name}" for name, value in (("cut", cut), ("wrong", wrong)) if value]
        finally:
            if guests:
                guests.kill()
                guests.wait()
            for pid in children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                os.waitpid(pid, 0)
    return results, broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(HERE, "../build/release/bin"))
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--tunnels", type=int, default=50, help="a multiple of 5")
    parser.add_argument("--busy", type=int, default=200)
    parser.add_argument("--upgrades", type=int, default=1)
    parser.add_argument("--side", choices=("client", "server"), default="client")
    parser.add_argument("--new", type=int, default=5000, help="new connections during each upgrade")
    parser.add_argument("--peer", metavar="BINARY", help="another proxy, with the environment names of istio/ztunnel (its build with --features testing)")
    parser.add_argument("--json")
    options = checked(parser, parser.parse_args())
    sweep_stale()
    results, broken = {}, []
    with tempfile.TemporaryDirectory(prefix="ztu-") as folder:
        for name in ("ours", "peer") if options.peer else ("ours",):
            # The programs by the names that the harness looks for.
            programs = os.path.join(folder, name)
            os.mkdir(programs)
            for program in ("ztunnel", "ztunnel-agent", "zt_load"):
                os.symlink(os.path.realpath(os.path.join(options.bin, program)), os.path.join(programs, program))
            environment = {}
            if name == "peer":
                os.unlink(os.path.join(programs, "ztunnel"))
                os.symlink(os.path.realpath(options.peer), os.path.join(programs, "ztunnel"))
                if "C++" not in version(options.peer):  # certificates of its test build
                    environment = {"FAKE_CA": "true", "EMBEDDED_CA_DIR": None}
            mesh_module.BIN = programs
            if options.peer:
                print(f"{name}: {version(os.path.join(programs, 'ztunnel'))}")
            results[name], wrong = measure(options, environment)
            broken += [f"{name}: {each}" for each in wrong] if options.peer else wrong
    failed = any(not each.startswith("peer: ") for each in broken)
    if not options.peer:
        results = results["ours"]
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    for each_wrong in broken:
        print(f"!! {each_wrong}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
