"""Live connections in the next process: two proxies of one node, one after the other."""

import hashlib
import os
import re
import signal
import socket
import threading
import time

import pytest

from harness import apps
from harness.handover import Replacement, count, echoes, live, replace
from harness.mesh import write_file
from harness.process import eventually

# Every byte of a transfer is known by its position. The length is a prime, so that no block of it looks like another.
PATTERN = hashlib.shake_128(b"pattern").digest(1048573)
BLOCK = 64 * 1024


def pattern(position, count):
    first = position % len(PATTERN)
    out = PATTERN[first:first + count]
    while len(out) < count:
        out += PATTERN[:count - len(out)]
    return out


def send_pattern(sock, count, progress=None):
    for position in range(0, count, BLOCK):
        sock.sendall(pattern(position, min(BLOCK, count - position)))
        if progress and position >= count // 20:
            progress.set()


def check_pattern(sock, count, start=0):
    for position in range(start, count, BLOCK):
        size = min(BLOCK, count - position)
        assert apps.read_exactly(sock, size) == pattern(position, size), f"a wrong byte behind {position}"


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web, mesh.plain = first.pod("client"), second.pod("web"), second.pod("plain", captured=False)
    mesh.web.serve(8080)
    mesh.plain.serve(8080)
    return mesh


def side_of(mesh, side):
    return mesh.nodes[0 if side == "client" else 1]


SIDES = pytest.mark.parametrize("side", ["client", "server"])


@SIDES
def test_idle_connections_live_through_a_replacement_of_their_proxy(shop, side):
    shop.start()
    socks = [live(shop.client, address) for address in [shop.web.ip, shop.web.ip6] * 10]
    _, line = replace(shop, side_of(shop, side))
    assert count(line, "connections") == 20
    assert count(line, "left") == 0
    for number, sock in enumerate(socks):
        echoes(sock, b"still %d" % number)
        sock.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(sock) == (b"", apps.FIN)
    # And new ones are served, on the tunnel that came along or another.
    live(shop.client, shop.web.ip).close()


def test_plain_connections_live_through_a_replacement_with_what_is_in_their_pipes(shop):
    total = 8 * 1024 * 1024
    may_read = threading.Event()

    def late_reader(sock, _peer):
        sock.settimeout(60)
        assert may_read.wait(60)
        check_pattern(sock, total)
        sock.sendall(b"all")
        sock.close()

    shop.plain.serve(9000, late_reader)
    shop.start()
    socks = [live(shop.client, address) for address in [shop.plain.ip, shop.plain.ip6] * 5]
    full = shop.client.connect(shop.plain.ip, 9000, timeout=60)
    sender = apps.start(lambda: send_pattern(full, total))
    _, line = replace(shop, shop.nodes[0])
    assert count(line, "connections") == 11
    assert count(line, "left") == 0
    for sock in socks:
        echoes(sock, b"still")
        sock.close()
    may_read.set()
    sender.join(60)
    assert apps.read_to_end(full) == (b"all", apps.FIN)


@SIDES
def test_half_closed_and_unread_connections_go_on_where_they_were(shop, side):
    unread = 3 * 1024 * 1024
    go = threading.Event()

    def answers_after_the_end(sock, _peer):
        assert apps.read_exactly(sock, 5) == b"hello"
        assert sock.recv(1) == b""
        assert go.wait(60)
        send_pattern(sock, 200_000)
        sock.close()

    def ends_first(sock, _peer):
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert go.wait(60)
        check_pattern(sock, 200_000)
        assert sock.recv(1) == b""

    def talks_to_a_deaf_one(sock, _peer):
        sock.settimeout(60)
        send_pattern(sock, unread)
        sock.close()

    def is_reset(sock, _peer):
        sock.sendall(b"x")
        assert go.wait(60)
        apps.reset(sock)

    for port, handler in ((9001, answers_after_the_end), (9002, ends_first), (9003, talks_to_a_deaf_one), (9004, is_reset)):
        shop.web.serve(port, handler)
    shop.start()
    ended = shop.client.connect(shop.web.ip, 9001, timeout=60)
    ended.sendall(b"hello")
    ended.shutdown(socket.SHUT_WR)
    answered = shop.client.connect(shop.web.ip, 9002, timeout=60)
    assert apps.read_to_end(answered) == (b"hello", apps.FIN)
    deaf = shop.client.connect(shop.web.ip, 9003, timeout=60)
    check_pattern(deaf, BLOCK)
    doomed = shop.client.connect(shop.web.ip, 9004, timeout=60)
    assert apps.read_exactly(doomed, 1) == b"x"

    _, line = replace(shop, side_of(shop, side))
    assert count(line, "connections") == 4
    assert count(line, "left") == 0
    go.set()
    check_pattern(ended, 200_000)
    assert apps.read_to_end(ended) == (b"", apps.FIN)
    send_pattern(answered, 200_000)
    answered.close()
    check_pattern(deaf, unread, start=BLOCK)
    assert apps.read_to_end(deaf) == (b"", apps.FIN)
    assert apps.how_it_ends(doomed) == apps.RST


def test_what_a_slow_reader_has_yet_to_take_of_a_stream_that_is_gone_goes_along(shop):
    total = 100_000

    def all_at_once(sock, _peer):
        assert sock.recv(1) == b"x"
        send_pattern(sock, total)
        sock.close()

    shop.web.serve(9000, all_at_once)
    shop.start()
    slow = [shop.client.connect(address, 9000, timeout=30) for address in (shop.web.ip, shop.web.ip6)]
    for sock in slow:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
    server, client = shop.nodes[1].ztunnel, shop.nodes[0]
    eventually(lambda: len(server.matching("connection complete.*:9000")) == 2, "the servers' sides to be done")
    server.kill()
    tunnels = "zt_tunnels_open"
    eventually(lambda: re.search(tunnels + r'\{[^}]*client[^}]*\} 0\n', client.http(15020, "/metrics")[1]), "the tunnel to be gone")
    assert client.ztunnel.matching("connection complete") == [], "they outlive it"
    for _ in range(2):
        new, line = replace(shop, client)
        assert (count(line, "connections"), count(line, "left")) == (2, 0), line
    for sock in slow:
        check_pattern(sock, total)
        assert apps.read_to_end(sock) == (b"", apps.FIN)
    line = new.process.wait_line("connection complete.*:9000")
    assert f"bytes_recv={total} " in line or f"bytes_recv={total}" in line.split()


@SIDES
def test_a_transfer_both_ways_goes_on_without_a_wrong_byte_through_three_replacements(shop, side):
    total = 400 * 1024 * 1024

    def serve(sock, _peer):
        sock.settimeout(60)

        def send():
            send_pattern(sock, total)
            sock.shutdown(socket.SHUT_WR)
        sender = apps.start(send)
        check_pattern(sock, total)
        assert sock.recv(1) == b""
        sender.join(60)

    shop.web.serve(9000, serve)
    shop.start()
    sock = shop.client.connect(shop.web.ip, 9000, timeout=60)
    progress, failed, received = threading.Event(), [], []

    def send():
        send_pattern(sock, total, progress)
        sock.shutdown(socket.SHUT_WR)

    def receive():
        try:
            check_pattern(sock, total)
            received.append(sock.recv(1))
        except Exception as error:
            failed.append(error)

    threads = [apps.start(send), apps.start(receive)]
    assert progress.wait(30)
    node = side_of(shop, side)
    lines = [replace(shop, node)[1] for _ in range(3)]
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert received == [b""]
    assert [count(line, "left") for line in lines] == [0, 0, 0]


def test_several_workers_give_to_one_at_the_same_time(shop):
    shop.start(ZTUNNEL_WORKER_THREADS="4")
    socks = [live(shop.client, shop.plain.ip) for _ in range(80)]
    for workers in ("1", "4", "1"):
        _, line = replace(shop, shop.nodes[0], ZTUNNEL_WORKER_THREADS=workers)
        assert (count(line, "connections"), count(line, "left")) == (80, 0), line
        for sock in socks:
            echoes(sock, b"on")


# A request ends when its application has not answered for 10 s.
REQUEST_LIMIT = 10


@SIDES
def test_requests_that_are_on_their_way_are_answered_by_the_next_process(shop, side):
    """The application cannot be reached for a while: a request to it holds up neither its tunnel nor the hand-over."""
    shop.web.serve(9000)
    # Whoever is not answered asks again each second, not after 1, 3, 7 and 15 s.
    shop.web.netns.sysctl("net.ipv4.tcp_syn_linear_timeouts", 20, check=False)
    shop.start()
    socks = [live(shop.client, shop.web.ip) for _ in range(5)]
    for _ in range(3):  # on a machine on which a proxy needs almost the limit to start, another one is tried
        shop.web.netns.run("nft", "add table inet slow; add chain inet slow out { type filter hook output priority 0; }; "
                                  "add rule inet slow out tcp dport 9000 oifname lo drop; add chain inet slow in { type filter hook input priority 0; }; "
                                  "add rule inet slow in tcp dport 9000 drop")
        server = shop.nodes[1].ztunnel
        mark, begun = server.mark(), time.monotonic()
        asked = [shop.client.connect(shop.web.ip, 9000, timeout=30) for _ in range(5)]
        for sock in asked:
            sock.sendall(b"early")
        eventually(lambda: len(server.matching("connection opened.*:9000", since=mark)) == 5, "the requests to be there")
        _, line = replace(shop, side_of(shop, side))
        shop.web.netns.run("nft", "delete", "table", "inet", "slow")
        if side == "server" or time.monotonic() - begun < REQUEST_LIMIT - 2:
            break
    assert count(line, "left") == 0
    assert count(line, "connections") == (10 if side == "client" else 5)
    for sock in socks:
        echoes(sock, b"on")
    for sock in asked:
        assert apps.read_exactly(sock, 5) == b"early"
        echoes(sock, b"on")
        sock.close()


def test_a_connection_has_one_line_and_its_sums_are_right(shop):
    shop.start()
    sock = live(shop.client, shop.web.ip)
    echoes(sock, b"a" * 999)
    node = shop.nodes[0]
    old = node.ztunnel
    new, _ = replace(shop, node)
    echoes(sock, b"b" * 500)
    sock.close()
    line = new.process.wait_line(r"connection complete.*dst\.hbone_addr=" + re.escape(f"{shop.web.ip}:8080"))
    assert "bytes_sent=1500" in line and "bytes_recv=1500" in line
    assert "error=" not in line
    assert old.matching("connection complete.*hbone_addr") == []
    text = new.metrics()
    assert re.search(r'istio_tcp_connections_closed_total\{[^}]*reporter="source"[^}]*\} 1\n', text)
    assert not re.search(r'istio_tcp_connections_opened_total\{[^}]*reporter="source"[^}]*\} [1-9]', text)
    sent = re.search(r'istio_tcp_received_bytes_total\{[^}]*reporter="source"[^}]*\} (\d+)', text)
    assert sent and int(sent[1]) == 500, "what the old one has counted is not counted again"


def test_the_next_process_asks_its_policies_and_cuts_what_they_deny(shop):
    shop.web.serve(8081, apps.echo_whatever_comes)
    shop.start()
    denied, allowed = live(shop.client, shop.web.ip, 8081), live(shop.client, shop.web.ip, 8080)
    shop.policy("no-8081", [[[{"destinationPorts": [8081]}]]], action="Deny")
    other = os.path.join(shop.folder, "other.yaml")
    write_file(other, shop.text())
    new, line = replace(shop, shop.nodes[1], LOCAL_XDS_PATH=other)
    assert count(line, "connections") == 2
    assert apps.how_it_ends(denied) == apps.RST
    echoes(allowed, b"on")
    new.process.wait_line("connection closed due to policy change")


def test_a_new_version_that_never_gets_ready_is_given_nothing(shop):
    shop.start()
    sock = live(shop.client, shop.web.ip)
    node = shop.nodes[0]
    Replacement(shop, node, LOCAL_XDS_PATH="/nowhere/mesh.yaml").process.wait_exit(20)
    node.ztunnel.signal(signal.SIGTERM)
    node.ztunnel.wait_line("shutting down")
    echoes(sock, b"on")
    sock.close()
    assert node.ztunnel.wait_exit(20) == 0
    assert node.ztunnel.matching("handed over") == []


def test_after_a_replacement_the_next_newcomer_is_not_given_all_new_connections_at_once(shop):
    """What steered them away from the first would, if it stayed, steer them from the second to the third before that is needed."""
    shop.start()
    node = shop.nodes[0]
    second, _ = replace(shop, node)
    third = Replacement(shop, node).wait_ready()
    for _ in range(40):
        live(shop.client, shop.web.ip).close()
    eventually(lambda: second.process.matching("connection complete"), "the second to serve some of them")
    third.process.kill()


def test_the_last_line_says_what_became_of_all_connections(shop):
    shop.start()
    node = shop.nodes[0]
    moved = live(shop.client, shop.web.ip)
    old = node.ztunnel
    _, line = replace(shop, node)
    assert (count(line, "connections"), count(line, "left")) == (1, 0), line
    last = old.matching("shutdown complete")[-1]
    assert [count(last, name) for name in ("moved", "drained", "cut")] == [1, 0, 0]
    assert count(last, "longest_stop_ms") == count(line, "longest_stop_ms")
    echoes(moved, b"on")


def test_a_successor_that_died_leaves_the_connections_where_they_are(shop):
    shop.start()
    sock = live(shop.client, shop.web.ip)
    node = shop.nodes[0]
    Replacement(shop, node).wait_ready().process.kill()
    node.ztunnel.signal(signal.SIGTERM)
    node.ztunnel.wait_line("nobody takes the connections over")
    echoes(sock, b"on")
    sock.close()
    assert node.ztunnel.wait_exit(20) == 0


def test_a_hand_over_that_is_switched_off_drains(shop):
    shop.start(ZT_HAND_OVER="false")
    sock = live(shop.client, shop.web.ip)
    node = shop.nodes[0]
    Replacement(shop, node, ZT_HAND_OVER="false").wait_ready()
    node.ztunnel.signal(signal.SIGTERM)
    node.ztunnel.wait_line("shutting down")
    echoes(sock, b"on")
    assert node.ztunnel.alive(), "it has a connection left"
    sock.close()
    assert node.ztunnel.wait_exit(20) == 0
    assert not os.path.exists(node.zds_socket + ".successor")
