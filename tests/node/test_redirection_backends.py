"""Every way of redirecting pods behaves the same: one suite, run over each.

Each backend has one mesh for all that changes nothing, and one of its own for each test that does.
"""

import re
import shutil
import socket

import pytest

from harness import apps, dns
from harness.mesh import Mesh, ebpf_can_be_tried, legacy_can_be_tried, program
from harness.process import Process, eventually
from test_enrolment import LiveConnection, echo_works

# What the agent is told, and a command that takes a pod's redirection out behind its back.
BACKENDS = {
    "nftables": ({"ZTUNNEL_AGENT_BACKEND": "nftables"}, "nft flush ruleset"),
    "iptables-legacy": ({"ZTUNNEL_AGENT_BACKEND": "iptables", "FORCE_IPTABLES_BINARY": "legacy"}, "iptables-legacy -w 10 -t nat -F"),
    "iptables-nft": ({"ZTUNNEL_AGENT_BACKEND": "iptables", "FORCE_IPTABLES_BINARY": "nft"}, "iptables-nft -t nat -F ISTIO_OUTPUT"),
}
if not legacy_can_be_tried():
    del BACKENDS["iptables-legacy"]
if ebpf_can_be_tried():
    BACKENDS["ebpf"] = ({"ZTUNNEL_AGENT_BACKEND": "ebpf"}, None)
FAMILIES = ["ip", "ip6"]
VIP, VIP6 = "10.96.0.10", "fd00:10:96::10"


def build(mesh):
    mesh.client = mesh.nodes[0].pod("client")
    mesh.web = mesh.nodes[1].pod("web")
    mesh.gate = mesh.nodes[1].pod("gate")
    mesh.gate.options = {"ingress": True}
    mesh.gate.speaks_hbone = False
    mesh.plain = mesh.nodes[1].pod("plain", captured=False)
    mesh.outsider = mesh.nodes[0].pod("outsider", captured=False)
    mesh.service("web", VIP, 80, 8080, [mesh.web], vip6=VIP6)
    for pod in (mesh.client, mesh.web, mesh.gate, mesh.plain):
        pod.serve(8080, apps.name_and_echo(pod.name))
    mesh.names = dns.NameServer(mesh.plain, dns.zone({"www.example.com": ["192.0.2.1", "2001:db8::1"]}))
    mesh.names6 = dns.NameServer(mesh.plain, dns.zone({}), mesh.plain.ip6)
    return mesh


@pytest.fixture(scope="module", params=BACKENDS)
def shop(request):
    with Mesh() as mesh:
        yield build(mesh).start(agent={**BACKENDS[request.param][0], **(mesh.mount_bpffs() if "ebpf" in BACKENDS else {})})


@pytest.fixture(params=BACKENDS)
def own(request, mesh):
    """A mesh that the test may change; started by the test."""
    mesh.agent_env, mesh.spoil = BACKENDS[request.param]
    mesh.of_bpffs = mesh.mount_bpffs() if "ebpf" in BACKENDS else {}
    mesh.agent_env = {**mesh.agent_env, **mesh.of_bpffs}
    mesh.client, mesh.web = mesh.nodes[0].pod("client"), mesh.nodes[1].pod("web")
    mesh.web.serve(8080)
    return mesh


def said(pod, address, port=8080):
    with pod.connect(address, port) as sock:
        sock.shutdown(socket.SHUT_WR)
        data, end = apps.read_to_end(sock)
    assert end == apps.FIN
    return data.decode().strip()


def socket_name(address):
    """As the log writes it."""
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_between_captured_pods_takes_the_tunnel(shop, family):
    mark = shop.nodes[1].ztunnel.mark()
    assert said(shop.client, getattr(shop.web, family)) == f"web sees {getattr(shop.client, family)}"
    line = shop.nodes[1].ztunnel.wait_line(r'connection complete.*direction="inbound"', since=mark)
    assert f'src.identity="{shop.client.identity}"' in line


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_from_outside_the_mesh_is_captured_on_its_way_in(shop, family):
    mark = shop.nodes[1].ztunnel.mark()
    assert said(shop.outsider, getattr(shop.web, family)) == f"web sees {getattr(shop.outsider, family)}"
    line = shop.nodes[1].ztunnel.wait_line(r'connection complete.*direction="inbound"', since=mark)
    assert "src.identity" not in line


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_to_outside_the_mesh_is_captured_on_its_way_out(shop, family):
    mark = shop.nodes[0].ztunnel.mark()
    assert said(shop.client, getattr(shop.plain, family)) == f"plain sees {getattr(shop.client, family)}"
    shop.nodes[0].ztunnel.wait_line(r'connection complete.*direction="outbound"', since=mark)


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_a_service_address_is_reached_and_the_application_sees_the_address_it_dialled(shop, vip):
    with shop.client.connect(vip, 80) as sock:
        assert sock.getpeername()[:2] == (vip, 80)
        assert sock.getsockname()[0] in (shop.client.ip, shop.client.ip6)
        sock.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(sock)[0].startswith(b"web")


def test_an_ipv4_destination_of_an_ipv6_socket_is_captured(shop):
    mark = shop.nodes[0].ztunnel.mark()
    with shop.client.netns.socket(socket.AF_INET6) as sock:
        sock.settimeout(apps.TIMEOUT)
        sock.connect((f"::ffff:{VIP}", 80))
        assert sock.getpeername()[0] == f"::ffff:{VIP}"
        sock.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(sock)[0].startswith(b"web")
    shop.nodes[0].ztunnel.wait_line(r'connection complete.*direction="outbound".*', since=mark)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_that_calls_itself_is_not_captured(shop, family):
    address = getattr(shop.client, family)
    mark = shop.nodes[0].ztunnel.mark()
    assert said(shop.client, address) == f"client sees {address}"
    loopback = "::1" if family == "ip6" else "127.0.0.1"
    assert said(shop.client, loopback) == f"client sees {loopback}"
    said(shop.client, getattr(shop.plain, family))  # captured, and logged later than the others would be
    shop.nodes[0].ztunnel.wait_line(rf'connection complete.*dst.addr=\S*{getattr(shop.plain, family)}', since=mark)
    assert not shop.nodes[0].ztunnel.matching(re.escape(f"dst.addr={socket_name(address)}:8080"), since=mark)


@pytest.mark.parametrize("family", FAMILIES)
def test_ingress_mode_leaves_plain_tcp_on_its_way_in_alone(shop, family):
    mark = shop.nodes[1].ztunnel.mark()
    assert said(shop.outsider, getattr(shop.gate, family)) == f"gate sees {getattr(shop.outsider, family)}"
    said(shop.outsider, getattr(shop.web, family))  # captured
    shop.nodes[1].ztunnel.wait_line(rf'connection complete.*dst.addr=\S*{getattr(shop.web, family)}', since=mark)
    assert not shop.nodes[1].ztunnel.matching(re.escape(f"dst.addr={socket_name(getattr(shop.gate, family))}:8080"), since=mark)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dns_is_captured(shop, transport, family):
    dig = ["dig", f"@{getattr(shop.plain, family)}", "+time=5", "+tries=1", "+short", transport]
    assert shop.client.netns.run(*dig, "web.shop.svc.cluster.local", "A").strip() == VIP
    assert shop.client.netns.run(*dig, "web.shop.svc.cluster.local", "AAAA").strip() == VIP6


@pytest.mark.parametrize("family", FAMILIES)
def test_dns_answers_an_unconnected_socket_from_the_address_that_it_asked(shop, family):
    server = getattr(shop.plain, family)
    with shop.client.netns.socket(apps.family_of(server), socket.SOCK_DGRAM) as sock:
        sock.settimeout(apps.TIMEOUT)
        sock.sendto(dns.query("web.shop.svc.cluster.local"), (server, 53))
        answer, source = sock.recvfrom(4096)
    assert source[:2] == (server, 53)
    assert socket.inet_aton(VIP) in answer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_port_that_nobody_listens_on_refuses_outside_and_inside(shop, family):
    for pod in (shop.client, shop.outsider):
        assert apps.refused(pod, getattr(shop.web, family), 9999)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_proxy_new_connections_are_refused_and_never_pass(own, family):
    own.start(agent=own.agent_env)
    outsider = own.nodes[0].pod("outsider", captured=False)
    for node in own.nodes:
        node.ztunnel.kill()
    for pod in (own.client, outsider):
        with pytest.raises(ConnectionError):
            echo_works(pod, getattr(own.web, family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_live_pod_enters_and_leaves_and_no_connection_breaks(own, family):
    late = own.nodes[1].pod("late", captured=False)
    late.serve(8080)
    own.start(agent=own.agent_env)
    node = own.nodes[1]
    before = [LiveConnection(own.client, getattr(late, family)), LiveConnection(late, getattr(own.web, family))]
    late.captured = late.speaks_hbone = True
    node.write_pods()
    own.edit()
    late.wait_captured()
    inside = [LiveConnection(own.client, getattr(late, family)), LiveConnection(late, getattr(own.web, family))]
    for live in before + inside:
        live.assert_beats()
    mark = node.agent.mark()
    late.captured = late.speaks_hbone = False
    node.write_pods()
    own.edit()
    eventually(lambda: not late.is_redirected(), "the pod to capture no more")
    after = [LiveConnection(own.client, getattr(late, family)), LiveConnection(late, getattr(own.web, family))]
    for live in before + inside + after:
        live.assert_beats()
    for live in inside:
        live.close()
    node.agent.wait_line(f"pod left.*{late.uid}", since=mark, timeout=30)
    for live in before + after:
        live.assert_beats()
        live.close()


@pytest.mark.parametrize("own", ["iptables-nft"], indirect=True)
def test_an_agent_whose_tools_are_missing_does_not_start_and_leaves_the_rules_alone(own):
    own.start(agent=own.agent_env)
    node = own.nodes[1]
    node.agent.kill()
    rules = own.web.netns.run("nft", "-s", "list", "ruleset")
    without = Process("an agent without tools", ["unshare", "-m", "sh", "-c",
                                                  f"mount -t tmpfs none /usr/sbin && exec {program('ztunnel-agent')} --pods {node.pods_file}"],
                      {"ZTUNNEL_UDS_ADDRESS": node.zds_socket, **own.agent_env}, node.netns)
    own.processes.append(without)
    assert without.wait_exit() == 1
    assert "iptables redirection does not work here" in without.text()
    assert own.web.netns.run("nft", "-s", "list", "ruleset") == rules
    assert echo_works(own.client, own.web.ip)


@pytest.mark.parametrize("own", [name for name in BACKENDS if name != "ebpf"], indirect=True)
def test_excluded_ports_and_ranges_go_around_the_proxy_and_nothing_else_does(own):
    near, far = own.nodes
    plain, outsider = far.pod("plain", captured=False), near.pod("outsider", captured=False)
    for pod, ports in ((own.web, (9000, 9001)), (plain, (8080, 9000))):
        for port in ports:
            pod.serve(port, apps.name_and_echo(pod.name))
    own.client.options = {"excludeOutboundPorts": ["9000-9001"], "excludeOutboundRanges": [plain.ip6]}
    own.web.options = {"excludeInboundPorts": ["9001"], "excludeInboundRanges": [outsider.ip6]}
    names = dns.NameServer(plain, dns.zone({"www.example.com": ["192.0.2.1"]}), plain.ip6)  # noqa: F841
    own.start(agent=own.agent_env)

    def seen(proxy, pod, address, port, direction):
        """Whether the proxy was in the way of a call; one that it takes comes after it, and is logged later."""
        mark = proxy.mark()
        said(pod, address, port)
        said(own.client, own.web.ip)
        proxy.wait_line(rf'connection complete.*dst.addr=\S*{own.web.ip}.*direction="{direction}"', since=mark)
        return any(socket_name(address) in line for line in proxy.matching(rf'connection complete.*:{port}.*direction="{direction}"', since=mark))

    out, into = (near.ztunnel, own.client), (far.ztunnel, outsider)
    for family in FAMILIES:
        assert not seen(*out, getattr(plain, family), 9000, "outbound"), "an excluded port"
    assert not seen(*out, plain.ip6, 8080, "outbound"), "an excluded range"
    assert seen(*out, plain.ip, 8080, "outbound")
    for family in FAMILIES:
        assert not seen(*into, getattr(own.web, family), 9001, "inbound"), "an excluded port"
    assert not seen(*into, own.web.ip6, 9000, "inbound"), "an excluded range"
    assert seen(*into, own.web.ip, 9000, "inbound")
    # The excluded resolver is asked itself: it does not know the mesh's names.
    ask = ["dig", f"@{plain.ip6}", "+time=5", "+tries=1", "+short"]
    assert own.client.netns.run(*ask, "www.example.com", "A").strip() == "192.0.2.1"
    assert own.client.netns.run(*ask, "web.shop.svc.cluster.local", "A").strip() == ""


def test_redirection_that_somebody_took_out_comes_back(own):
    own.start(agent=own.agent_env)
    marks = [(node.agent, node.agent.mark()) for node in own.nodes]
    if own.spoil:
        own.client.netns.run("sh", "-c", own.spoil)
    else:
        shutil.rmtree(f"{own.bpffs}/ztunnel-1/links")  # the programs of all pods, and with them their redirection
    # What all pods of all agents share is repaired by the agent that looks first.
    eventually(lambda: any(agent.matching("the pod's redirection is repaired", since=mark) for agent, mark in marks), "the repair", timeout=30)
    mark = own.nodes[0].ztunnel.mark()
    assert echo_works(own.client, own.web.ip)
    own.nodes[0].ztunnel.wait_line(r'connection complete.*direction="outbound"', since=mark)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("to", BACKENDS)
def test_an_agent_with_another_backend_takes_live_pods_over(own, to, family):
    own.start(agent=own.agent_env)
    node, live = own.nodes[1], LiveConnection(own.client, getattr(own.web, family))
    live.assert_beats()
    node.agent.signal(15)
    assert node.agent.wait_exit() == 0
    node.start_agent(**BACKENDS[to][0], **own.of_bpffs)
    node.agent.wait_line(f"pod enrolled.*{own.web.uid}")
    node.wait_ready()
    live.assert_beats()
    mark = node.ztunnel.mark()
    assert echo_works(own.client, getattr(own.web, family))
    node.ztunnel.wait_line(r'connection complete.*direction="inbound"', since=mark)
    live.assert_beats()
    live.close()
