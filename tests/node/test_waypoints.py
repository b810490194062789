"""Waypoints: what a service or a pod sends through one, real redirection at every hop.

    node 1: client (captured)       node 2: web (captured), way-0, way-1, canary: pods that are waypoints

Here a waypoint is a captured pod of its own ("sandwich"): our proxy ends the tunnel for it, and a small program in it calls the
pods behind the service. A real Envoy as waypoint is in tests/interop.
"""

import contextlib
import os
import re
import socket
import struct
import threading
import time

import pytest

from harness import apps
from harness.faults import Traffic
from harness.mesh import RELOADED, write_file
from harness.process import eventually

VIP, VIP6 = "10.96.0.20", "fd00:10:96::20"
HOST, WAYPOINT = "web.shop.svc.cluster.local", "waypoint.shop.svc.cluster.local"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BY_NAME = {"destination": f"shop/{WAYPOINT}", "hboneMtlsPort": 15008}


def read_proxy_header(sock):
    """(source, destination, {TLV: value})"""
    head = apps.read_exactly(sock, 16)
    assert head[:13] == SIGNATURE + b"\x21", head
    body = apps.read_exactly(sock, struct.unpack(">H", head[14:])[0])
    family, size = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}[head[13]]
    source, destination = (socket.inet_ntop(family, body[at:at + size]) for at in (0, size))
    ports, rest, values = struct.unpack_from(">2H", body, 2 * size), body[2 * size + 4:], {}
    while rest:
        kind, length = struct.unpack_from(">BH", rest)
        values[kind], rest = rest[3:3 + length].decode(), rest[3 + length:]
    return (source, ports[0]), (destination, ports[1]), values


class Waypoint:
    """The program in a pod that is a waypoint: says its name, then passes bytes to `backend(port)` and back."""

    def __init__(self, pod, port, backend, header=True, address="::"):
        self.pod, self.headers, self.backend = pod, [], backend

        def handle(sock, peer):
            if header:
                self.headers.append(read_proxy_header(sock))
            sock.sendall(f"through {pod.name} for {peer[0]}\n".encode())
            upstream = pod.connect(*backend)
            pump = apps.start(lambda: self._copy(sock, upstream))
            self._copy(upstream, sock)
            pump.join()
            upstream.close()
            sock.close()

        pod.serve(port, handle, address)

    @staticmethod
    def _copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client = first.pod("client")
    mesh.web = second.pod("web")
    mesh.web.serve(8080, apps.name_and_echo("web"))
    mesh.ways = [second.pod(name, account="waypoint") for name in ("way-0", "way-1")]
    mesh.canary = second.pod("canary")
    mesh.service("web", VIP, 80, 8080, [mesh.web], vip6=VIP6)
    mesh.service("waypoint", "10.96.0.21", 15008, 15008, list(mesh.ways))
    mesh.service("canary", "10.96.0.22", 15008, 15008, [mesh.canary])
    mesh.tunnel = {"protocol": "PROXY", "port": 15088}
    for pod in (*mesh.ways, mesh.canary):
        also(pod, lambda: {"applicationTunnel": mesh.tunnel} if mesh.tunnel else {})
    return mesh


def also(pod, more):
    """Adds to what mesh.yaml says of the pod."""
    plain = pod.workload
    pod.workload = lambda: {**plain(), **more()}


def service(mesh, name):
    return next(s for s, _ in mesh.services if s["name"] == name)


def endpoints(mesh, pods, name="waypoint"):
    """Who the waypoint's endpoints are from the next edit on."""
    at = next(i for i, (s, _) in enumerate(mesh.services) if s["name"] == name)
    mesh.services[at] = (mesh.services[at][0], list(pods))


def call(pod, address, port, payload=b"hello"):
    """The lines that the hops said of themselves; the echo is checked."""
    with pod.connect(address, port) as sock:
        mine = sock.getsockname()
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        data, end = apps.read_to_end(sock)
    assert end == apps.FIN and data.endswith(payload), (data, end)
    return data.decode().split("\n")[:-1], mine[1]


def line_of(node, direction, since, *words):
    pattern = rf'connection complete.*{".*".join(map(re.escape, words))}.*direction="{direction}"'
    return node.ztunnel.wait_line(pattern, since=since)


@pytest.mark.parametrize("family", ["ip", "ip6"])
@pytest.mark.parametrize("reference", ["name", "service address", "pod address"])
def test_a_service_is_called_through_its_waypoint(shop, reference, family):
    way = shop.ways[0]
    endpoints(shop, [way])
    service(shop, "web")["waypoint"] = {
        "name": BY_NAME, "service address": {"destination": "/10.96.0.21", "hboneMtlsPort": 15008},
        "pod address": {"destination": f"/{way.ip}", "hboneMtlsPort": 15008}}[reference]
    waypoint = Waypoint(way, 15088, (shop.web.ip, 8080))
    shop.start()
    marks = [node.ztunnel.mark() for node in shop.nodes]
    vip = VIP if family == "ip" else VIP6
    lines, port = call(shop.client, vip, 80)
    assert lines == [f"through way-0 for {'127.0.0.1' if reference != 'name' or family == 'ip' else '::1'}", f"web sees {way.ip}"]
    (source, destination, values), = waypoint.headers
    assert destination == (vip, 80)
    assert source[0].removeprefix("::ffff:") in (shop.client.ip, shop.client.ip6)
    assert values == {0xD0: shop.client.identity, 0xD1: HOST}
    authority = f"{vip}:80" if family == "ip" else f"[{vip}]:80"
    outbound = line_of(shop.nodes[0], "outbound", marks[0], f":{port} ", f"dst.hbone_addr={authority} ", f'dst.service="{HOST}"')
    assert f'dst.identity="{way.identity}"' in outbound and 'dst.workload="way-0"' in outbound and ":15008 dst.hbone_addr" in outbound
    # The waypoint's own call has its own identity, and does not come back to it.
    inbound = line_of(shop.nodes[1], "inbound", marks[1], f"dst.hbone_addr={shop.web.ip}:8080")
    assert f'src.identity="{way.identity}"' in inbound


def test_a_pod_is_called_through_its_waypoint_and_by_its_service_straight(shop):
    endpoints(shop, [shop.ways[0]])
    also(shop.web, lambda: {"waypoint": BY_NAME})
    Waypoint(shop.ways[0], 15088, (shop.web.ip, 8080))
    shop.start()
    assert call(shop.client, shop.web.ip, 8080)[0] == ["through way-0 for 127.0.0.1", f"web sees {shop.ways[0].ip}"]
    assert call(shop.client, VIP, 80)[0] == [f"web sees {shop.client.ip}"]


def test_a_waypoint_that_calls_its_own_service_does_not_call_itself(shop):
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["waypoint"] = BY_NAME
    Waypoint(shop.ways[0], 15088, (VIP, 80))
    shop.start()
    assert call(shop.client, VIP, 80)[0] == ["through way-0 for 127.0.0.1", f"web sees {shop.ways[0].ip}"]


@pytest.mark.parametrize("protocol", ["NONE with a port", "NONE", "no tunnel"])
def test_a_waypoint_behind_our_proxy_without_a_proxy_header(shop, protocol):
    shop.tunnel = {"NONE with a port": {"protocol": "NONE", "port": 15088}, "NONE": {"protocol": "NONE"}, "no tunnel": None}[protocol]
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["waypoint"] = BY_NAME
    Waypoint(shop.ways[0], 15088 if protocol == "NONE with a port" else 80, (shop.web.ip, 8080), header=False)
    shop.start()
    assert call(shop.client, VIP, 80)[0] == [f"through way-0 for {shop.client.ip}", f"web sees {shop.ways[0].ip}"]


def test_connections_are_shared_out_by_weight_and_a_canary_is_taken_as_a_waypoint(shop):
    shop.tunnel = None  # so that the canary's proxy has to find out that it stands for the service
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["weightedWaypoints"] = [
        {"destination": BY_NAME, "weight": 75},
        {"destination": {"destination": "shop/canary.shop.svc.cluster.local", "hboneMtlsPort": 15008}, "weight": 25}]
    for pod in (shop.ways[0], shop.canary):
        Waypoint(pod, 80, (shop.web.ip, 8080), header=False)
    shop.start()
    through = [call(shop.client, VIP, 80)[0][0].split()[1] for _ in range(80)]
    assert through.count("way-0") + through.count("canary") == 80
    assert 15 <= through.count("canary") <= 25


def canary_of(shop, weight):
    """`weight` percent of the calls go through the canary, the others through way-0. Their proxies take whatever is sent to them: two nodes do
    not hear of an edit in the same moment."""
    shop.tunnel = {"protocol": "NONE", "port": 80}
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["weightedWaypoints"] = [
        {"destination": BY_NAME, "weight": 100 - weight},
        {"destination": {"destination": "shop/canary.shop.svc.cluster.local", "hboneMtlsPort": 15008}, "weight": weight}]


def says_its_name(pod):
    def handle(sock, _peer):
        sock.sendall(pod.name.encode())
        sock.close()

    pod.serve(80, handle)


def test_a_canary_with_a_weight_of_ten_gets_its_tenth_of_two_thousand_connections(shop):
    canary_of(shop, 10)
    for pod in (shop.ways[0], shop.canary):
        says_its_name(pod)
    shop.start()
    counts, lock = {"way-0": 0, "canary": 0}, threading.Lock()

    def load():
        for _ in range(500):
            with shop.client.connect(VIP, 80, timeout=30) as sock:
                name, end = apps.read_to_end(sock)
            assert end == apps.FIN
            with lock:
                counts[name.decode()] += 1

    threads = [apps.start(load) for _ in range(4)]
    for thread in threads:
        thread.join()
    assert sum(counts.values()) == 2000, counts
    assert 160 <= counts["canary"] <= 240, counts


def test_a_canary_that_is_taken_away_under_load_costs_no_connection(shop):
    canary_of(shop, 50)
    for pod in (shop.ways[0], shop.canary):
        says_its_name(pod)
    shop.start()
    stop, results, lock = threading.Event(), [], threading.Lock()

    def load():
        while not stop.is_set():
            begun = time.monotonic()
            try:
                with shop.client.connect(VIP, 80, timeout=30) as sock:
                    name, end = apps.read_to_end(sock)
                said = name.decode() if end == apps.FIN else end
            except OSError as error:
                said = repr(error)
            with lock:
                results.append((begun, said))

    def since(moment):
        with lock:
            return [said for begun, said in results if begun >= moment]

    threads = [apps.start(load) for _ in range(4)]
    eventually(lambda: {"way-0", "canary"} <= set(since(0)), "both to be met", timeout=20)
    del service(shop, "web")["weightedWaypoints"]
    service(shop, "web")["waypoint"] = BY_NAME
    shop.edit()
    edited = time.monotonic()
    eventually(lambda: len(since(edited)) > 50, "calls after the edit", timeout=20)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(since(0)) == {"way-0", "canary"}, "nobody was refused"
    assert set(since(edited)) == {"way-0"}


@pytest.mark.parametrize("first", [0, 1], ids=["its clients hear first", "it hears first"])
@pytest.mark.parametrize("change", ["comes", "goes"])
def test_a_canary_that_has_to_know_what_it_stands_for_costs_no_connection_whoever_hears_of_it_first(shop, change, first):
    """Without an application tunnel its proxy refuses what is not for the pod itself or for what it is the waypoint of."""
    shop.tunnel = None
    endpoints(shop, [shop.ways[0]])
    for pod in (shop.ways[0], shop.canary):
        says_its_name(pod)
    web = service(shop, "web")
    states = {"with": {"weightedWaypoints": [{"destination": BY_NAME, "weight": 50}, {
        "destination": {"destination": "shop/canary.shop.svc.cluster.local", "hboneMtlsPort": 15008}, "weight": 50}]}, "without": {"waypoint": BY_NAME}}
    before, after = ("without", "with") if change == "comes" else ("with", "without")
    plain, files = web.copy(), [shop.file, shop.file + ".of-node-2"]

    def write(node, state):
        web.clear()
        web.update(plain | states[state])
        write_file(files[node], shop.text())

    write(1, before)
    environment = shop.nodes[1].proxy_env
    shop.nodes[1].proxy_env = lambda **changes: environment(LOCAL_XDS_PATH=files[1], **changes)
    web.update(states[before])
    shop.start()
    stop, results, lock = threading.Event(), [], threading.Lock()

    def load():
        while not stop.is_set():
            try:
                with shop.client.connect(VIP, 80, timeout=30) as sock:
                    name, end = apps.read_to_end(sock)
                said = name.decode() if end == apps.FIN else end
            except OSError as error:
                said = repr(error)
            with lock:
                results.append(said)

    def after_another(count):
        with lock:
            begun = len(results)
        eventually(lambda: len(results) >= begun + count, f"{count} more calls", timeout=20)
        with lock:
            return set(results[begun:])

    threads = [apps.start(load) for _ in range(4)]
    assert after_another(40) == ({"way-0"} if change == "comes" else {"way-0", "canary"})
    with lock:
        results.clear()
    for node in (first, 1 - first):
        mark = shop.nodes[node].ztunnel.mark()
        write(node, after)
        shop.nodes[node].ztunnel.wait_line(RELOADED, since=mark)
    met = after_another(60)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(results) <= {"way-0", "canary"}, "nobody was refused"
    assert met == {"way-0", "canary"} if change == "comes" else "way-0" in met


def test_a_waypoint_that_comes_later_takes_new_connections_at_once_and_leaves_old_ones(shop):
    endpoints(shop, [shop.ways[0]])
    Waypoint(shop.ways[0], 15088, (shop.web.ip, 8080))
    shop.start()
    with shop.client.connect(VIP, 80) as old:
        assert old.recv(100) == f"web sees {shop.client.ip}\n".encode()
        service(shop, "web")["waypoint"] = BY_NAME
        shop.edit()
        assert call(shop.client, VIP, 80)[0][0] == "through way-0 for 127.0.0.1"
        old.sendall(b"still here")
        assert apps.read_exactly(old, 10) == b"still here"
        del service(shop, "web")["waypoint"]
        shop.edit()
        assert call(shop.client, VIP, 80)[0] == [f"web sees {shop.client.ip}"]


def test_a_waypoint_without_endpoints_is_refused_and_never_gone_around(shop):
    endpoints(shop, [])
    service(shop, "web")["waypoint"] = BY_NAME
    also(shop.web, lambda: {"waypoint": BY_NAME})
    shop.start()
    mark = shop.nodes[0].ztunnel.mark()
    assert apps.refused(shop.client, VIP, 80)
    assert apps.refused(shop.client, shop.web.ip, 8080)
    shop.nodes[0].ztunnel.wait_line(rf'connection failed.*dst.addr={VIP}:80.*error="unknown waypoint: shop/{WAYPOINT}"', since=mark)
    shop.nodes[0].ztunnel.wait_line(rf'connection failed.*dst.addr={shop.web.ip}:8080.*error="unknown waypoint: shop/{WAYPOINT}"', since=mark)
    assert not shop.web.servers[0].peers


def test_endpoints_of_a_waypoint_come_and_go_under_load(shop):
    """1, 3, 0, 2: whatever the number, a call goes through one of them or fails, and never around them."""
    third = shop.nodes[1].pod("way-2", account="waypoint")
    also(third, lambda: {"applicationTunnel": shop.tunnel})
    shop.ways.append(third)
    for way in shop.ways:
        Waypoint(way, 15088, (shop.web.ip, 8080))
    endpoints(shop, shop.ways[:1])
    service(shop, "web")["waypoint"] = BY_NAME
    shop.start()
    stop, results, lock = threading.Event(), [], threading.Lock()

    def load():
        while not stop.is_set():
            begun = time.monotonic()
            try:
                said = call(shop.client, VIP, 80)[0][0].split()[1]
            except (OSError, AssertionError):
                said = "refused"
            with lock:
                results.append((begun, said))

    threads = [apps.start(load) for _ in range(4)]

    def phase(pods, wanted):
        if pods is not None:
            endpoints(shop, pods)
            shop.edit()
        since = time.monotonic()

        def met():
            with lock:
                return {said for begun, said in results if begun >= since}

        eventually(lambda: wanted <= met(), f"{wanted} among what calls meet", timeout=20)
        return met()

    assert phase(None, {"way-0"}) == {"way-0"}
    assert phase(shop.ways, {"way-0", "way-1", "way-2"}) == {"way-0", "way-1", "way-2"}
    assert phase([], {"refused"}) == {"refused"}
    assert phase(shop.ways[:2], {"way-0", "way-1"}) == {"way-0", "way-1"}
    stop.set()
    for thread in threads:
        thread.join()
    assert all(peer[0] in {way.ip for way in shop.ways} for peer in shop.web.servers[0].peers), "somebody went around the waypoint"


def test_who_only_has_the_waypoints_address_is_not_taken_for_it(shop):
    """The address of the waypoint answers with another identity: the tunnel is refused."""
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["waypoint"] = BY_NAME
    # mesh.yaml says that another account is behind way-0's address; the agent vouches for the true one.
    also(shop.ways[0], lambda: {"serviceAccount": "somebody-else"})
    Waypoint(shop.ways[0], 15088, (shop.web.ip, 8080))
    shop.start()
    mark = shop.nodes[0].ztunnel.mark()
    assert apps.refused(shop.client, VIP, 80)
    shop.nodes[0].ztunnel.wait_line("error=", since=mark)
    assert not shop.web.servers[0].peers


def test_a_busy_waypoint_gets_several_tunnels(shop):
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["waypoint"] = BY_NAME
    Waypoint(shop.ways[0], 15088, (shop.web.ip, 8080))
    shop.start(ZTUNNEL_WORKER_THREADS="1")
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            sock = stack.enter_context(shop.client.connect(VIP, 80))
            assert sock.recv(7) == b"through"
        dials = re.search(r'zt_pool_dials\w*\{[^}]*"ok"[^}]*\} (\d+)', shop.nodes[0].http(15020, "/metrics")[1])
        assert dials and 2 <= int(dials[1]) <= 4, dials


def test_the_tunnels_of_a_busy_waypoint_are_shared_out_among_its_threads(shop):
    """The waypoint's proxy has two workers; a tunnel's work is done by the one that has it. The waypoint answers by itself and calls nobody, so
    there is no other work on its node."""
    endpoints(shop, [shop.ways[0]])
    service(shop, "web")["waypoint"] = BY_NAME

    def answer(sock, peer):
        read_proxy_header(sock)
        apps.echo(sock, peer)

    shop.ways[0].serve(15088, answer)
    shop.start(ZTUNNEL_WORKER_THREADS="2")

    def worked():
        """Nanoseconds that each worker of the waypoint's proxy has been on a CPU."""
        pid, used = shop.nodes[1].ztunnel.pid, {}
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/comm") as name, open(f"/proc/{pid}/task/{task}/schedstat") as spent:
                if re.fullmatch(r"ztunnel-\d+", name.read().strip()):
                    used[task] = int(spent.read().split()[0])
        return used

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(shop.client.connect(VIP, 80, timeout=30)) for _ in range(40)]
        for sock in socks:
            sock.sendall(b"x")
            assert apps.read_exactly(sock, 1) == b"x"
        tunnels = shop.ways[0].netns.run("ss", "-Htn", "state", "established", "sport", "=", ":15008").strip().splitlines()
        assert len(tunnels) >= 2, tunnels
        before, payload = worked(), bytes(1 << 20)
        for sock in socks:
            reader = apps.start(lambda sock=sock: drain(sock, len(payload)))
            sock.sendall(payload)
            reader.join()
        spent = {name: now - before[name] for name, now in worked().items()}
    assert len(spent) == 2 and min(spent.values()) > 0.2 * sum(spent.values()), spent


def drain(sock, count):
    while count > 0:
        count -= len(sock.recv(min(count, 65536)) or b"x" * count)


def test_a_passthrough_service_with_three_addresses_and_a_block_goes_through_its_waypoint(shop):
    """Whatever of it is called, known port or not, is the waypoint's business, and the waypoint is told what was called."""
    endpoints(shop, [shop.ways[0]])
    vips = ["10.96.0.60", "10.96.0.61", "10.96.0.62"]
    shop.services.append(({"hostname": "away.example.com", "name": "away", "namespace": "shop", "vips": [f"/{vip}" for vip in vips],
                           "cidrVips": ["/10.97.0.0/16"], "ports": {"80": 80}, "loadBalancer": {"mode": "Passthrough"}, "waypoint": BY_NAME}, []))
    waypoint = Waypoint(shop.ways[0], 15088, (shop.web.ip, 8080))
    shop.start()
    asked = [(vip, 80) for vip in vips] + [("10.97.3.4", 80), ("10.97.200.1", 8443), (vips[0], 9)]
    for address, port in asked:
        assert call(shop.client, address, port)[0][0].startswith("through way-0"), (address, port)
    assert [destination for _, destination, _ in waypoint.headers] == asked
