"""One proxy for one workload, in its own namespace: the mode of virtual machines, and of comparisons with other proxies."""

import os
import pathlib
import re
import shutil
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


UNIT = pathlib.Path(__file__).resolve().parents[2] / "deploy/systemd/ztunnel-dedicated.service"


def test_it_runs_as_nobody_with_the_capabilities_of_its_unit_and_no_others(mesh):
    client, web = mesh.nodes[0].pod("client"), mesh.nodes[1].pod("web", captured=False)
    web.serve(8080, apps.name_and_echo("web"))
    mesh.write()
    dedicated.redirect(client.netns)
    os.chmod(mesh.folder, 0o755)
    os.mkdir(mesh.ca_folder)
    shutil.chown(mesh.ca_folder, 65534, 65534)
    allowed = ",".join("+" + name.removeprefix("CAP_").lower() for name in re.search(r"^CapabilityBoundingSet=(.*)", UNIT.read_text(), re.M)[1].split())
    assert f"AmbientCapabilities={allowed.replace('+', 'CAP_').upper()}" in UNIT.read_text()
    proxy = dedicated.start(client, mesh, by=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", f"--bounding-set=-all,{allowed}",
                                              f"--inh-caps=-all,{allowed}", f"--ambient-caps=-all,{allowed}"])
    assert call(client, web.ip) == (f"web sees {client.ip}\n".encode(), apps.FIN)
    proxy.wait_line('connection complete.*direction="outbound"')
    status = pathlib.Path(f"/proc/{proxy.pid}/status").read_text()
    assert re.search(r"^Uid:\t65534\t", status, re.M) and re.search(r"^CapEff:\t0*1000$", status, re.M), "CAP_NET_ADMIN alone"
