"""What is measured: one function for each kind of work. Each takes a path and returns {metric: value}; `settings` says how long."""

from paths import MANY, MANY_COUNT, Failed

MIB = 1 << 20


class Settings:
    def __init__(self, quick):
        self.seconds = 1 if quick else 4
        self.idle = 200 if quick else 4000
        self.idle_moved = 20 if quick else 400
        self.cold = 50 if quick else 200
        self.stalls = (4, 100) if quick else (4, 100, 1000)
        self.cold_used = {}  # path name -> addresses used so far: a tunnel is cold only once


def bulk(conns, up):
    def work(path, settings):
        with path.cpu_spent() as cpu:
            got = path.run("bulk", "--conns", conns, "--seconds", settings.seconds, *(["--up"] if up else []))
        gigabytes = got["bytes"] / 1e9
        result = {"Gbit/s": got["gbit_per_s"], "slowest/fastest stream": got["least_stream"] / max(1, got["most_stream"])}
        if cpu:
            result |= {"CPU-s/GB": sum(cpu) / gigabytes, "of that client side": cpu[1] / gigabytes}
        return result
    return work


def requests(rate, conns=16):
    def work(path, settings):
        path.run("requests", "--conns", conns, "--rate", rate, "--seconds", 1)  # tunnels stand
        with path.cpu_spent() as cpu:
            got = path.run("requests", "--conns", conns, "--rate", rate, "--seconds", settings.seconds)
        return {**_latency(got), **({"CPU-us/request": sum(cpu) / got["requests"] * 1e6} if cpu else {})}
    return work


def closed_loop(conns):
    def work(path, settings):
        path.run("requests", "--conns", conns, "--rate", 0, "--seconds", 1)
        with path.cpu_spent() as cpu:
            got = path.run("requests", "--conns", conns, "--rate", 0, "--seconds", settings.seconds)
        return {"requests/s": got["per_second"], **({"CPU-us/request": sum(cpu) / got["requests"] * 1e6} if cpu else {})}
    return work


def requests_beside_bulk(path, settings):
    import threading
    stream = {}
    thread = threading.Thread(target=lambda: stream.update(path.run("bulk", "--conns", 1, "--up", "--seconds", settings.seconds + 2)))
    thread.start()
    try:
        got = path.run("requests", "--conns", 16, "--rate", 500, "--seconds", settings.seconds)
    finally:
        thread.join()
    return {**_latency(got), "the stream's Gbit/s": stream.get("gbit_per_s", 0)}


def new_connections(parallel):
    def work(path, settings):
        path.run("connections", "--parallel", parallel, "--count", 4 * parallel)
        with path.cpu_spent() as cpu:
            got = path.run("connections", "--parallel", parallel, "--seconds", settings.seconds)
        return {"per second": got["per_second"], "p99 us": got["latency"]["p99_us"],
                **({"CPU-us/connection": sum(cpu) / got["connections"] * 1e6} if cpu else {})}
    return work


def cold_tunnels(path, settings):
    first = settings.cold_used.get(path.name, 0)
    if first + settings.cold > MANY_COUNT:
        raise Failed("no fresh address left")
    settings.cold_used[path.name] = first + settings.cold
    parts = MANY.split(".")
    address = f"{parts[0]}.{parts[1]}.{int(parts[2]) + first // 256}.{first % 256}"
    with path.cpu_spent() as cpu:
        got = path.run("connections", "--parallel", 1, "--count", settings.cold, to=f"{address}+{settings.cold}")
    return {"p50 us": got["latency"]["p50_us"], **({"CPU-us/tunnel": sum(cpu) / got["connections"] * 1e6} if cpu else {})}


def idle(path, settings):
    """Resident bytes that a connection costs each proxy while it does nothing: fresh, and after it has moved 12 MiB."""
    path.start()
    result = {"fresh process MB": sum(path.resident()) / 2 / 1e6} if path.proxies else {}
    for label, count, words in (("B per idle connection", settings.idle, ()),
                                ("B per connection idle after 12 MiB", settings.idle_moved, ("--bytes", 12 * MIB))):
        path.start()
        if not path.proxies:
            continue
        # What the process needs once, whatever the number of connections (buffers of its workers, tunnels, what the allocator has in
        # hand), is paid for first. Idle ones are so small that what counts is how much more of them cost than fewer.
        path.run("requests", "--conns", 64, "--rate", 0, "--seconds", 1)
        path.run("bulk", "--conns", 32, "--seconds", 1)
        with path.held("idle", "--conns", 1 if words else count // 2):
            before = path.settled()
            with path.held("idle", "--conns", count, *words):
                after = path.settled()
        result[f"{label}, server side"] = (after[0] - before[0]) / count
        result[f"{label}, client side"] = (after[1] - before[1]) / count
    return result


def stalled(count):
    """Receivers that stop reading; what a healthy stream and small requests between the same two pods get meanwhile."""
    def work(path, settings):
        path.start()
        before = path.resident()
        alone = path.run("bulk", "--conns", 1, "--up", "--seconds", settings.seconds)["gbit_per_s"]
        result = {"healthy stream alone Gbit/s": alone}
        with path.held("stall", "--conns", count) as held:
            result["swallowed MB"] = held["swallowed_bytes"] / 1e6
            result["of them cut by the proxy"] = held["cut"]
            result["healthy stream Gbit/s"] = _or_zero(lambda: path.run("bulk", "--conns", 1, "--up", "--seconds", settings.seconds, timeout=45)["gbit_per_s"])
            result["requests p99 us"] = _or_zero(lambda: _latency(path.run("requests", "--conns", 8, "--rate", 500, "--seconds", settings.seconds, timeout=45))["p99 us"])
            if path.proxies:
                result["both proxies' memory MB"] = (sum(path.resident()) - sum(before)) / 1e6
        path.start()
        return result
    return work


def _latency(got):
    latency = got["latency"]
    return {"p50 us": latency["p50_us"], "p99 us": latency["p99_us"], "p99.9 us": latency["p999_us"]}


def _or_zero(function):
    """0: nothing came through at all."""
    try:
        return function()
    except Failed:
        return 0


def all_works(settings):
    """Name -> work, in the order of the table."""
    works = {}
    for conns in (1, 8, 32):
        for direction in ("down", "up"):
            works[f"bulk, {conns} connection{'s' if conns > 1 else ''}, {direction}"] = bulk(conns, direction == "up")
    for rate in (1000, 5000):
        works[f"1 KiB requests, {rate}/s, 16 connections"] = requests(rate)
    works["1 KiB requests, 500/s beside a bulk stream"] = requests_beside_bulk
    for conns in (1, 16, 64):
        works[f"1 KiB requests, closed loop, {conns} connection{'s' if conns > 1 else ''}"] = closed_loop(conns)
    for parallel in (1, 16, 64):
        works[f"new connections, {parallel} at a time"] = new_connections(parallel)
    works["a new tunnel for each connection"] = cold_tunnels
    works["idle connections"] = idle
    for count in settings.stalls:
        works[f"{count} stalled receivers"] = stalled(count)
    return works
