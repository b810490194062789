"""What a connection keeps when its process is replaced, and what is kept watch of there."""

import json
import os
import re
import signal
import socket
import subprocess
import threading

import pytest

from harness import apps
from harness.handover import COMMIT, Between, Replacement, count, echoes, leave, live, replace
from harness.process import eventually
from test_revocation import CUT, Revocations, is_cut, serial

LOCAL = {"ZT_LOCAL_DIRECT": "true"}


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.near, mesh.web = first.pod("client"), first.pod("near"), second.pod("web")
    for pod in (mesh.near, mesh.web):
        pod.serve(8080)
    return mesh


def edit(mesh, proxies):
    marks = [(proxy, proxy.mark()) for proxy in proxies]
    mesh.write()
    for proxy, mark in marks:
        proxy.wait_line("local configuration read", since=mark)


def sums(texts, name, **labels):
    """Of a metric's series with these labels, over several processes."""
    total = 0
    for text in texts:
        for line in text.splitlines():
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += int(line.rsplit(" ", 1)[1])
    return total


def test_two_pods_of_a_node_stay_together_through_two_replacements(shop):
    total = 3 * 1024 * 1024
    go = threading.Event()

    def deaf(sock, _peer):
        sock.settimeout(60)
        assert go.wait(60)
        assert len(apps.read_exactly(sock, total)) == total
        sock.sendall(b"all")
        sock.close()

    shop.near.serve(9000, deaf)
    shop.start(**LOCAL)
    node = shop.nodes[0]
    first = node.ztunnel
    socks = [live(shop.client, shop.near.ip) for _ in range(5)]
    full = shop.client.connect(shop.near.ip, 9000, timeout=60)
    sender = apps.start(lambda: (full.sendall(b"z" * total), full.shutdown(socket.SHUT_WR)))
    ended = shop.client.connect(shop.near.ip, 8080, timeout=30)
    eventually(lambda: len(first.matching("connection opened")) == 14, "both sides of all to be open")
    for _ in range(2):
        new, line = replace(shop, node, **LOCAL)
        assert (count(line, "connections"), count(line, "left")) == (14, 0), line
        for sock in socks:
            echoes(sock, b"on")
    go.set()
    sender.join(60)
    assert apps.read_to_end(full) == (b"all", apps.FIN)
    for end, sock in ((socket.socket.close, socks[0]), (apps.reset, socks[1])):
        port = sock.getsockname()[1]
        end(sock)
        for side in ("outbound", "inbound"):
            line = new.process.wait_line(f'connection complete.*src.addr={shop.client.ip}:{port} .*direction="{side}" zt.path="local" bytes')
            assert "bytes_sent=5 " in line and "bytes_recv=5 " in line and "error=" not in line
    assert not first.matching("connection complete")
    ended.close()


def test_a_policy_edit_cuts_a_pair_of_one_node_that_has_moved(shop):
    shop.start(**LOCAL)
    sock = live(shop.client, shop.near.ip)
    new, line = replace(shop, shop.nodes[0], **LOCAL)
    assert count(line, "connections") == 2
    shop.policy("nobody", [])
    edit(shop, [new.process])
    assert apps.how_it_ends(sock) == apps.RST
    new.process.wait_line("connection closed due to policy change")


def test_a_pair_of_one_node_whose_server_the_policies_of_the_next_process_refuse_is_cut_there(shop):
    shop.start(**LOCAL)
    sock = live(shop.client, shop.near.ip)
    node = shop.nodes[0]
    shop.policy("nobody", [])
    other = os.path.join(shop.folder, "other.yaml")
    with open(other, "w") as file:
        file.write(shop.text())
    new, line = replace(shop, node, LOCAL_XDS_PATH=other, **LOCAL)
    assert count(line, "connections") == 2
    assert apps.how_it_ends(sock) == apps.RST
    new.process.wait_line("connection closed due to policy change")


@pytest.mark.parametrize("whose", ["client", "near"])
def test_who_is_revoked_after_the_move_is_cut_on_either_side_of_a_pair(shop, whose):
    revocations = Revocations(shop)
    settings = {**LOCAL, "CRL_PATH": revocations.path}
    shop.start(**settings)
    sock = live(shop.client, shop.near.ip)
    number = serial(getattr(shop, whose))
    new, line = replace(shop, shop.nodes[0], **settings)
    assert count(line, "connections") == 2
    echoes(sock, b"on")
    revocations.revoke(number)
    assert is_cut(sock)
    new.process.wait_line(f'error="{CUT}"')


@pytest.mark.parametrize("side", ["client", "server"])
def test_who_is_revoked_after_the_move_is_cut(shop, side):
    revocations = Revocations(shop)
    settings = {"CRL_PATH": revocations.path}
    shop.start(**settings)
    sock = live(shop.client, shop.web.ip)
    node = shop.nodes[0 if side == "client" else 1]
    number = serial(shop.web if side == "client" else shop.client)
    new, line = replace(shop, node, **settings)
    assert count(line, "connections") == 1
    echoes(sock, b"on")
    revocations.revoke(number)
    assert is_cut(sock)
    new.process.wait_line(CUT)


def test_a_policy_edit_cuts_what_has_moved(shop):
    shop.start()
    sock = live(shop.client, shop.web.ip)
    new, _ = replace(shop, shop.nodes[1])
    echoes(sock, b"on")
    shop.policy("nobody", [])
    edit(shop, [new.process])
    assert apps.how_it_ends(sock) == apps.RST
    new.process.wait_line("connection closed due to policy change")


def test_the_list_of_connections_has_those_that_moved(shop):
    shop.start()
    node = shop.nodes[1]
    sock = live(shop.client, shop.web.ip)
    new, _ = replace(shop, node)

    def listed():
        dump = json.loads(node.http(15000, "/config_dump", netns=new.netns)[1])
        states = dump["workloadState"].values()
        return [each for state in states for each in (state.get("connections") or {}).get("inbound", [])]
    listed_now = eventually(listed, "the connection to be listed")
    assert len(listed_now) == 1 and shop.client.ip in json.dumps(listed_now) and shop.web.ip in json.dumps(listed_now)
    sock.close()
    eventually(lambda: not listed(), "it to be gone")


@pytest.mark.parametrize("local", [False, True], ids=["tunnel", "local"])
def test_metrics_of_all_processes_together_are_those_of_one(shop, local):
    settings = LOCAL if local else {}
    server = shop.near if local else shop.web
    shop.start(**settings)
    node = shop.nodes[0]
    sock = live(shop.client, server.ip)
    echoes(sock, b"a" * 99)
    texts = []
    for _ in range(2):
        new = Replacement(shop, node, **settings).wait_ready()
        # What the old one counts at the end cannot be asked it then: it counts a connection when it gives it.
        leave(node.ztunnel)
        node.ztunnel = new.process
        echoes(sock, b"b" * 100)
    line_mark = new.process.mark()
    sock.close()
    new.process.wait_line('connection complete.*direction="outbound".*bytes_sent=300 .*bytes_recv=300 ', since=line_mark)
    texts.append(new.metrics())
    assert sums(texts, "istio_tcp_connections_opened_total", reporter="source") == 0
    assert sums(texts, "istio_tcp_connections_closed_total", reporter="source") == 1
    assert sums(texts, "istio_tcp_received_bytes_total", reporter="source") == 100
    assert sums(texts, "istio_tcp_sent_bytes_total", reporter="source") == 100


def test_one_that_is_replaced_while_it_is_being_given_to_passes_all_of_it_on(shop):
    """Three processes within moments: the first still gives when the second is told to leave."""
    plain = shop.nodes[1].pod("plain", captured=False)
    plain.serve(8080)
    shop.start(ZTUNNEL_WORKER_THREADS="1")
    node = shop.nodes[0]
    socks = [live(shop.client, plain.ip) for _ in range(40)]
    place = node.zds_socket + ".successor"
    first, second = node.ztunnel, Replacement(shop, node, ZTUNNEL_WORKER_THREADS="1").wait_ready()
    # The third is there before anything moves, for the first waits for a few seconds only. The first still finds the second.
    os.rename(place, place + ".second")
    third = Replacement(shop, node, ZTUNNEL_WORKER_THREADS="1").wait_ready()
    os.rename(place, place + ".third")
    os.rename(place + ".second", place)
    half, go = threading.Event(), threading.Event()
    seen = []

    def hook(number):
        if number == COMMIT:
            seen.append(number)
            if len(seen) == 20:
                half.set()
                assert go.wait(30)
        return True

    Between(place, hook)
    first.signal(signal.SIGTERM)
    assert half.wait(20)
    os.rename(place + ".third", place)
    second.process.signal(signal.SIGTERM)
    # It has given all that it had by then, and more is to come.
    eventually(lambda: sums([third.metrics()], "zt_handover_connections_total", way="taken") >= 19, "the second to have given", timeout=30)
    go.set()
    assert first.wait_exit(30) == 0
    for sock in socks:
        echoes(sock, b"on")
    assert second.process.wait_exit(60) == 0
    for sock in socks:
        echoes(sock, b"on")
    assert third.process.alive()


def test_a_full_disk_at_the_meeting_place_is_said_and_connections_drain(shop):
    node = shop.nodes[0]
    folder = os.path.join(shop.folder, "full")
    os.mkdir(folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4,size=64k", "none", folder], check=True)
    try:
        os.symlink(node.zds_socket, os.path.join(folder, "ztunnel.sock"))
        settings = {"INPOD_UDS": os.path.join(folder, "ztunnel.sock")}
        shop.start()
        node.ztunnel.signal(signal.SIGTERM)
        assert node.ztunnel.wait_exit(20) == 0
        node.start_ztunnel(**settings)
        node.wait_ready()
        for pod in (shop.client, shop.near):
            pod.wait_captured()
        sock = live(shop.client, shop.web.ip)
        open(os.path.join(folder, "filler"), "w").close()
        new = Replacement(shop, node, **settings).wait_ready()
        new.process.wait_line("connections will not be handed over.*No space left on device")
        node.ztunnel.signal(signal.SIGTERM)
        node.ztunnel.wait_line("shutting down")
        echoes(sock, b"on")
        sock.close()
        assert node.ztunnel.wait_exit(20) == 0
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_tunnel_that_nobody_uses_moves_and_serves_the_next_connection(shop):
    shop.start(ZTUNNEL_WORKER_THREADS="1")
    node = shop.nodes[0]
    live(shop.client, shop.web.ip).close()
    node.ztunnel.wait_line('connection complete.*direction="outbound"')
    new, line = replace(shop, node, ZTUNNEL_WORKER_THREADS="1")
    assert count(line, "units") >= 1 and count(line, "left") == 0, line
    handshakes = 'zt_tunnel_handshakes_total'
    live(shop.client, shop.web.ip).close()
    new.process.wait_line('connection complete.*direction="outbound"')
    assert not re.search(handshakes + r"\{[^}]*\} [1-9]", new.metrics()), "it needed none"
