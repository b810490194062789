"""A proxy that is restarted where it is, in one network namespace, as a service (deploy/systemd).

    client and web, each with a proxy of its own (dedicated mode)          plain, without one
"""

import os
import socket
import threading

import pytest

from harness import apps, dedicated
from harness.handover import count, echoes, live
from harness.netns import run
from harness.process import eventually

SIDES = pytest.mark.parametrize("side", ["client", "server"])


@pytest.fixture
def shop(mesh, tmp_path):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    mesh.plain = second.pod("plain", captured=False)
    for pod in (mesh.web, mesh.plain):
        pod.serve(8080)
    mesh.write()
    for pod in (mesh.client, mesh.web):
        dedicated.redirect(pod.netns)
    mesh.services_of = {"client": dedicated.Service(mesh.client, mesh, tmp_path), "server": dedicated.Service(mesh.web, mesh, tmp_path)}
    return mesh


def keep_calling(pod, address, over, failed, made):
    while not over.is_set():
        try:
            live(pod, address).close()
            made.append(1)
        except (OSError, AssertionError) as error:
            failed.append(error)


@SIDES
def test_a_restart_of_a_dedicated_proxy_loses_no_connection_and_refuses_none(shop, side):
    service = shop.services_of[side]
    socks = [live(shop.client, address) for address in [shop.web.ip] * 5 + [shop.plain.ip] * 5]
    over, failed, made = threading.Event(), [], []
    caller = apps.start(lambda: keep_calling(shop.client, shop.web.ip, over, failed, made))
    for _ in range(2):
        eventually(lambda before=len(made): len(made) > before, "new connections")
        lines = service.restart()
        assert [count(line, "left") for line in lines] == [0, 0], lines
        assert all(count(line, "connections") >= (10 if side == "client" else 5) for line in lines), lines
        for sock in socks:
            echoes(sock, b"on")
        assert "istio_tcp_connections_opened_total" in run(*service.pod.netns.prefix(), "curl", "-sf", "http://127.0.0.1:15020/metrics")
    over.set()
    caller.join(30)
    assert failed == []
    for sock in socks:
        sock.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(sock) == (b"", apps.FIN)


def test_a_new_version_that_fails_at_its_start_leaves_connections_and_ports_to_the_one_between(shop):
    service = shop.services_of["client"]
    sock = live(shop.client, shop.web.ip)
    bridge = service.run()
    service.end(service.proxy)
    broken = dedicated.launch(shop.client, shop, **{**service.changes, "LOCAL_XDS_PATH": "/nowhere/mesh.yaml"})
    assert broken.wait_exit(20) != 0
    echoes(sock, b"on")
    live(shop.client, shop.web.ip).close()
    service.proxy = service.run()
    assert (count(service.end(bridge), "connections"), bridge.matching("left=0") != []) == (1, True)
    echoes(sock, b"still")
    assert not [name for name in os.listdir(os.path.dirname(service.notify)) if ".successor." in name], "nothing is left at the meeting place"


def test_a_path_that_cannot_be_is_refused_by_name(shop):
    for path in ("relative/path", "/" + "x" * 100):
        process = dedicated.launch(shop.plain, shop, ZT_HAND_OVER_PATH=path)
        assert process.wait_exit(20) != 0
        assert "ZT_HAND_OVER_PATH" in process.text() and "absolute path" in process.text()
