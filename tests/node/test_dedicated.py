"""One proxy for one workload, in its own namespace: the mode of virtual machines, and of comparisons with other proxies."""

import socket

import pytest

from harness import apps, dedicated


@pytest.fixture
def pair(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    mesh.plain = second.pod("plain", captured=False)
    mesh.write()
    for pod in (mesh.client, mesh.web):
        dedicated.redirect(pod.netns)
    mesh.proxies = {pod: dedicated.start(pod, mesh) for pod in (mesh.client, mesh.web)}
    for pod in mesh.pods:
        pod.serve(8080, apps.name_and_echo(pod.name))
    return mesh


def call(pod, address):
    with pod.connect(address, 8080) as sock:
        sock.shutdown(socket.SHUT_WR)
        return apps.read_to_end(sock)


def test_both_ends_captured(pair):
    assert call(pair.client, pair.web.ip) == (f"web sees {pair.client.ip}\n".encode(), apps.FIN)
    line = pair.proxies[pair.web].wait_line('connection complete.*direction="inbound"')
    assert f'src.identity="{pair.client.identity}"' in line and "dst.hbone_addr" in line


def test_only_the_client_captured(pair):
    assert call(pair.client, pair.plain.ip) == (f"plain sees {pair.client.ip}\n".encode(), apps.FIN)
    assert "hbone_addr" not in pair.proxies[pair.client].wait_line('connection complete.*direction="outbound"')


def test_only_the_server_captured(pair):
    assert call(pair.plain, pair.web.ip) == (f"web sees {pair.plain.ip}\n".encode(), apps.FIN)
    assert "src.identity" not in pair.proxies[pair.web].wait_line('connection complete.*direction="inbound"')
