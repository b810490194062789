"""A hand-over in which somebody dies, hangs, lies, or is not who he should be: connections go on in exactly one process, or end as ever."""

import os
import resource
import signal
import socket
import struct
import threading

import pytest

from harness import apps
from harness.handover import (ABORT, COMMIT, HELLO, READY, UNIT, Between, Pretender, Replacement, count, echoes, leave, live, read_message,
                              replace, write_message)
from harness.process import eventually


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    # Clients of these tests end in any way.
    mesh.web.serve(8080, apps.echo_whatever_comes)
    # One worker has it all, so that there is one conversation, and one unit.
    mesh.start(ZTUNNEL_WORKER_THREADS="1")
    return mesh


def place_of(node):
    return node.zds_socket + ".successor"


def killed_at(step, victim, seen):
    """A hook: the victim dies when the first message of that number comes by, and the message with it."""
    def hook(number):
        if number == step and not seen.is_set():
            victim.kill()
            seen.set()
        return not seen.is_set()
    return hook


@pytest.mark.parametrize("step", [HELLO, UNIT, READY])
def test_a_successor_that_is_killed_before_it_was_told_to_go_on_costs_nothing(shop, step):
    node, seen = shop.nodes[0], threading.Event()
    socks = [live(shop.client, shop.web.ip) for _ in range(10)]
    new = Replacement(shop, node).wait_ready()
    between = Between(place_of(node), killed_at(step, new.process, seen))
    node.ztunnel.signal(signal.SIGTERM)
    assert seen.wait(10)
    line = node.ztunnel.wait_line("handed over")
    assert count(line, "connections") == 0 and count(line, "left") == 10
    for sock in socks:
        echoes(sock, b"on")
        sock.close()
    assert node.ztunnel.wait_exit(20) == 0
    between.close()


@pytest.mark.parametrize("step", [READY, COMMIT])
def test_one_who_leaves_and_is_killed_with_its_unit_given_leaves_it_to_the_next(shop, step):
    node, seen = shop.nodes[0], threading.Event()
    socks = [live(shop.client, shop.web.ip) for _ in range(10)]
    new = Replacement(shop, node).wait_ready()
    between = Between(place_of(node), killed_at(step, node.ztunnel, seen))
    node.ztunnel.signal(signal.SIGTERM)
    assert seen.wait(10)
    for sock in socks:
        echoes(sock, b"on")
    node.ztunnel = new.process
    new.process.wait_line("took over")
    live(shop.client, shop.web.ip).close()
    between.close()


def test_one_who_leaves_and_is_killed_before_its_unit_was_whole_takes_its_connections_along_as_ever(shop):
    node, seen = shop.nodes[0], threading.Event()
    sock = live(shop.client, shop.web.ip)
    new = Replacement(shop, node).wait_ready()
    between = Between(place_of(node), killed_at(UNIT, node.ztunnel, seen))
    node.ztunnel.signal(signal.SIGTERM)
    assert seen.wait(10)
    sock.settimeout(10)
    apps.how_it_ends(sock)
    node.ztunnel = new.process
    live(shop.client, shop.web.ip).close()
    between.close()


def test_a_unit_that_the_next_process_was_told_to_run_shares_its_fate(shop):
    node, seen = shop.nodes[0], threading.Event()
    sock = live(shop.client, shop.web.ip)
    new = Replacement(shop, node).wait_ready()
    between = Between(place_of(node), killed_at(COMMIT, new.process, seen))
    node.ztunnel.signal(signal.SIGTERM)
    assert seen.wait(10)
    sock.settimeout(10)
    apps.how_it_ends(sock)  # not: two processes that both go on, or none that ends it
    assert node.ztunnel.wait_exit(20) == 0
    between.close()


def test_a_successor_that_hangs_is_waited_for_two_seconds_and_the_connections_go_on(shop):
    node = shop.nodes[0]
    sock = live(shop.client, shop.web.ip)
    new = Replacement(shop, node).wait_ready()
    new.process.signal(signal.SIGSTOP)
    try:
        node.ztunnel.signal(signal.SIGTERM)
        line = node.ztunnel.wait_line("handed over")
        assert "does not say hello" in line
        echoes(sock, b"on")
        sock.close()
        assert node.ztunnel.wait_exit(20) == 0
    finally:
        new.process.signal(signal.SIGCONT)


def test_a_unit_for_which_nobody_is_ready_in_time_is_taken_back(shop):
    node, held = shop.nodes[0], threading.Event()
    sock = live(shop.client, shop.web.ip)
    new = Replacement(shop, node).wait_ready()
    let_go = threading.Event()

    def hook(number):
        if number == READY and not held.is_set():
            held.set()
            assert let_go.wait(20)
        return True

    between = Between(place_of(node), hook)
    node.ztunnel.signal(signal.SIGTERM)
    assert held.wait(10)
    eventually(lambda: ABORT in between.seen, "the unit to be taken back")
    echoes(sock, b"in the old one")
    let_go.set()
    assert node.ztunnel.wait_exit(20) == 0, "tried again, and given then"
    echoes(sock, b"in the new one")
    node.ztunnel = new.process
    between.close()


def test_whoever_takes_the_place_of_the_next_process_and_is_none_gets_nothing(shop):
    node = shop.nodes[0]
    sock = live(shop.client, shop.web.ip)
    said = []

    def greet_wrongly(visitor):
        while message := read_message(visitor):
            said.append(message[0])
            write_message(visitor, HELLO, b"\x00" * 40)

    pretender = Pretender(place_of(node), greet_wrongly)
    node.ztunnel.signal(signal.SIGTERM)
    line = node.ztunnel.wait_line("handed over")
    assert "does not speak our hand-over" in line
    assert UNIT not in said
    echoes(sock, b"on")
    sock.close()
    assert node.ztunnel.wait_exit(20) == 0
    pretender.close()


def test_a_place_that_others_may_write_to_is_not_visited(shop):
    node = shop.nodes[0]
    sock = live(shop.client, shop.web.ip)
    pretender = Pretender(place_of(node), lambda visitor: None, mode=0o666)
    node.ztunnel.signal(signal.SIGTERM)
    assert "open to others" in node.ztunnel.wait_line("nobody takes the connections over")
    assert pretender.visitors == 0
    echoes(sock, b"on")
    sock.close()
    assert node.ztunnel.wait_exit(20) == 0
    pretender.close()


def test_visitors_that_talk_nonsense_cost_the_proxy_nothing(shop):
    """They must be of its user; what they say is read with limits all the same."""
    node = shop.nodes[0]
    sock = live(shop.client, shop.web.ip)
    new = Replacement(shop, node).wait_ready()

    def visit(*messages, raw=b""):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            visitor.settimeout(10)
            visitor.connect(place_of(node))
            try:
                for number, data in messages:
                    write_message(visitor, number, data)
                visitor.sendall(raw)
                while read_message(visitor):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass

    visit(raw=struct.pack("<III", UNIT, 0xffffffff, 0))
    visit(raw=struct.pack("<III", HELLO, 4, 0xffff) + b"abcd")
    visit((COMMIT, b""))
    visit((UNIT, b"\x01" * 100))
    visit((HELLO, b"x" * 10), (UNIT, b"\x01" * 100))
    visit((99, b""))
    # And then the right one is served.
    assert count(leave(node.ztunnel), "connections") == 1
    node.ztunnel = new.process
    echoes(sock, b"on")


def test_a_successor_of_another_network_is_refused_by_name_and_the_old_one_drains(shop):
    node = shop.nodes[0]
    sock = live(shop.client, shop.web.ip)
    Replacement(shop, node, NETWORK="elsewhere").wait_ready()
    node.ztunnel.signal(signal.SIGTERM)
    assert "another network: elsewhere" in node.ztunnel.wait_line("handed over")
    echoes(sock, b"on")
    sock.close()
    assert node.ztunnel.wait_exit(20) == 0


def test_a_successor_without_descriptors_refuses_and_the_connections_go_on(shop):
    node = shop.nodes[0]
    socks = [live(shop.client, shop.web.ip) for _ in range(100)]
    new = Replacement(shop, node).wait_ready()
    open_now = len(os.listdir(f"/proc/{new.process.pid}/fd"))
    resource.prlimit(new.process.pid, resource.RLIMIT_NOFILE, (open_now + 20, open_now + 20))
    node.ztunnel.signal(signal.SIGTERM)
    line = node.ztunnel.wait_line("handed over", timeout=20)
    assert count(line, "left") == 100 and count(line, "refused") > 0
    assert "too many open files" in line
    for sock in socks:
        echoes(sock, b"on")
        sock.close()
    assert node.ztunnel.wait_exit(20) == 0


def test_two_that_leave_at_once_both_give_to_the_third(shop):
    node = shop.nodes[0]
    first = [live(shop.client, shop.web.ip) for _ in range(10)]
    second = Replacement(shop, node).wait_ready()
    old = node.ztunnel
    third = Replacement(shop, node).wait_ready()
    # The listeners of all three have some.
    mixed = [live(shop.client, shop.web.ip) for _ in range(20)]
    old.signal(signal.SIGTERM)
    second.process.signal(signal.SIGTERM)
    lines = []
    for each in (old, second.process):
        assert each.wait_exit(30) == 0
        lines.append(each.matching("handed over")[-1])
    assert [count(line, "left") for line in lines] == [0, 0]
    assert count(lines[0], "connections") >= 10
    node.ztunnel = third.process
    for sock in first + mixed:
        echoes(sock, b"on")


def test_old_and_new_may_have_different_numbers_of_workers(shop):
    node = shop.nodes[1]
    socks = [live(shop.client, shop.web.ip) for _ in range(10)]
    for workers in ("1", "3", "2"):
        _, line = replace(shop, node, ZTUNNEL_WORKER_THREADS=workers)
        assert count(line, "connections") == 10 and count(line, "left") == 0
        for sock in socks:
            echoes(sock, b"on")
