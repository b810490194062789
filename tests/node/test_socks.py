"""SOCKS5 in each pod (UNSTABLE_ENABLE_SOCKS5): programs that name where they want to go, and are told what became of it.

    node 1: client (captured)       node 2: web (captured), plain (not captured), names (a name server)
"""

import socket
import time

import pytest

from harness import apps, dedicated, dns, socks
from harness.handover import count, echoes, replace
from harness.process import eventually

VIP, VIP6, HOST = "10.96.0.50", "fd00:10:96::50", "web.shop.svc.cluster.local"


@pytest.fixture
def shop(mesh, tmp_path):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    mesh.plain = second.pod("plain", captured=False)
    mesh.names = second.pod("names", captured=False)
    for pod in (mesh.web, mesh.plain):
        pod.serve(8080, apps.name_and_echo(pod.name))
    mesh.service("web", VIP, 80, 8080, [mesh.web], vip6=VIP6)
    mesh.zone = {}
    mesh.server = dns.NameServer(mesh.names, lambda *asked: dns.zone(mesh.zone)(*asked))
    (tmp_path / "resolv.conf").write_text(f"nameserver {mesh.server.ip}\n")
    first.resolv_conf = tmp_path / "resolv.conf"
    return mesh


def start(mesh):
    mesh.start(UNSTABLE_ENABLE_SOCKS5="true")
    eventually(lambda: socks.PORT in mesh.client.netns.listening_ports(), "the SOCKS5 listener")


def call(pod, host, port):
    """What the server says of itself; the echo of what was sent before the answer, and after it, is checked."""
    sock, code = socks.dial(pod, host, port, ahead=b"early ")
    with sock:
        assert code == socks.SUCCEEDED, code
        sock.sendall(b"late")
        sock.shutdown(socket.SHUT_WR)
        data, end = apps.read_to_end(sock)
    first, _, rest = data.partition(b"\n")
    assert (rest, end) == (b"early late", apps.FIN)
    return first.decode()


def answer(pod, host, port):
    """The code alone, whatever follows."""
    sock, code = socks.dial(pod, host, port)
    sock.close()
    return code


def denied(pod, host, port):
    sock, code = socks.dial(pod, host, port)
    with sock:
        assert apps.read_to_end(sock) == (b"", apps.FIN), "the answer is followed by an orderly end"
    return code


def test_a_socks_client_reaches_the_mesh_by_address_and_by_every_form_of_a_name(shop):
    start(shop)
    proxy = shop.nodes[0].ztunnel
    for host, port in ((shop.web.ip, 8080), (VIP, 80), (HOST, 80), ("web", 80), ("web.shop", 80), ("Web.Shop.Svc.", 80)):
        mark = proxy.mark()
        assert call(shop.client, host, port) == f"web sees {shop.client.ip}", host
        line = proxy.wait_line('connection complete.*direction="outbound"', since=mark)
        assert f"dst.addr={shop.web.ip}:15008" in line and f'dst.identity="{shop.web.identity}"' in line
    assert call(shop.client, shop.web.ip6, 8080) == f"web sees {shop.client.ip6}"
    assert call(shop.client, VIP6, 80) == f"web sees {shop.client.ip6}"
    assert not shop.server.queries, "the mesh knows these names"


def test_names_that_the_mesh_does_not_know_are_asked_of_the_nodes_name_server_and_every_answer_is_tried(shop):
    dead = "10.244.2.250"
    shop.zone = {"good.example": shop.plain.ip, "six.example": shop.plain.ip6, "mixed.example": [dead, shop.names.ip, shop.plain.ip6]}
    start(shop)
    shop.nodes[1].netns.ip("route", "add", "unreachable", f"{dead}/32")
    assert call(shop.client, "good.example", 8080) == f"plain sees {shop.client.ip}"
    assert call(shop.client, "six.example", 8080) == f"plain sees {shop.client.ip6}"
    # Nobody is at the first, the second refuses, the third, of another family, answers.
    assert call(shop.client, "mixed.example", 8080) == f"plain sees {shop.client.ip6}"


def test_of_a_name_with_many_addresses_each_has_its_time_and_only_so_many_are_tried(shop):
    dead = [f"10.244.2.{n}" for n in range(200, 240)]
    shop.zone = {"slow.example": [shop.plain.ip, *dead[:12]], "many.example": dead, "good.example": shop.plain.ip}
    # Its first SYN is lost, and the next comes after a second: more than a thirteenth of the limit for a connect.
    shop.plain.netns.run("nft", "add table inet slow; add chain inet slow in { type filter hook input priority 0; }; "
                                "add rule inet slow in tcp dport 8080 quota until 100 bytes drop")
    start(shop)
    for address in dead:
        shop.nodes[1].netns.ip("route", "add", "unreachable", f"{address}/32")
    proxy = shop.nodes[0].ztunnel
    assert call(shop.client, "slow.example", 8080) == f"plain sees {shop.client.ip}"
    mark = proxy.mark()
    assert denied(shop.client, "many.example", 8080) == socks.HOST_UNREACHABLE
    assert call(shop.client, "good.example", 8080) == f"plain sees {shop.client.ip}"
    proxy.wait_line(f"connection complete.*dst.addr={shop.plain.ip}:8080", since=mark)
    assert len(proxy.matching("connection complete.*dst.addr=10.244.2.2..:8080.*error=", since=mark)) == 16


def test_a_socks_client_is_told_of_success_only_when_there_is_a_connection(shop):
    start(shop)
    shop.zone["refuses.example"] = shop.plain.ip
    proxy = shop.nodes[0].ztunnel
    mark = proxy.mark()
    assert denied(shop.client, shop.plain.ip, 9) == socks.REFUSED
    assert denied(shop.client, "refuses.example", 9) == socks.REFUSED
    assert denied(shop.client, shop.web.ip, 9) == socks.REFUSED, "its proxy answers 503"
    assert denied(shop.client, "nobody.example", 80) == socks.HOST_UNREACHABLE
    proxy.wait_line("error=.*no ip addresses were resolved for nobody.example", since=mark)
    assert denied(shop.client, "127.0.0.1", 15001) == socks.NOT_ALLOWED
    assert denied(shop.client, "127.0.0.1", 15080) == socks.NOT_ALLOWED
    shop.policy("nobody", [])
    shop.edit()
    eventually(lambda: answer(shop.client, VIP, 80) == socks.NOT_ALLOWED, "the policy's word to reach the client")
    assert denied(shop.client, VIP, 80) == socks.NOT_ALLOWED


@pytest.mark.parametrize("sent, told, why", [
    (b"\x04\x01\x00\x50\x0a\x00\x00\x07\x00", socks.V4_REFUSED, "version 4 is not spoken"),
    (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00web\x00", socks.V4_REFUSED, "version 4 is not spoken"),
    (socks.HELLO + socks.wish("10.0.0.7", 80, command=2), b"\x05\x00" + socks.reply(7), "BIND is not served"),
    (socks.HELLO + socks.wish("10.0.0.7", 80, command=3), b"\x05\x00" + socks.reply(7), "UDP ASSOCIATE is not served"),
    (b"\x05\x01\x02", b"\x05\xff", "without authentication"),
    (b"\x05\x00", b"\x05\xff", "no authentication method"),
    (socks.HELLO + b"\x05\x01\x00\x09", b"\x05\x00" + socks.reply(8), "address type 9"),
    (socks.HELLO + socks.wish("a b", 80), b"\x05\x00" + socks.reply(1), "not a host name"),
], ids=["v4", "v4a", "bind", "udp", "password", "none", "type", "name"])
def test_what_is_not_served_is_refused_in_words_that_the_client_reads(shop, sent, told, why):
    start(shop)
    mark = shop.nodes[0].ztunnel.mark()
    with shop.client.connect("127.0.0.1", socks.PORT) as sock:
        sock.sendall(sent + b"and more that nobody reads")
        assert apps.read_to_end(sock) == (told, apps.FIN)
    shop.nodes[0].ztunnel.wait_line(f"error=.*{why}", since=mark)


def test_socks_clients_that_say_nothing_or_stop_halfway_are_let_go(shop):
    start(shop)
    proxy = shop.nodes[0].ztunnel
    mark = proxy.mark()
    with shop.client.connect("127.0.0.1", socks.PORT) as gone:
        gone.sendall(b"\x05")
    proxy.wait_line("error=.*left without saying where to", since=mark)
    with shop.client.connect("127.0.0.1", socks.PORT, timeout=30) as silent:
        silent.sendall(socks.HELLO)
        begun = time.monotonic()
        assert apps.read_to_end(silent) == (b"\x05\x00", apps.RST)
        assert time.monotonic() - begun < 25
    proxy.wait_line("error=.*did not say in time where to", since=mark)
    assert call(shop.client, VIP, 80) == f"web sees {shop.client.ip}", "others are served as ever"


def test_the_socks_listener_is_there_only_if_it_is_asked_for_and_only_for_the_pod_itself(shop):
    shop.start()
    assert socks.PORT not in shop.client.netns.listening_ports()
    shop.nodes[1].ztunnel.stop()
    shop.nodes[1].start_ztunnel(UNSTABLE_ENABLE_SOCKS5="true")
    shop.nodes[1].wait_ready()
    eventually(lambda: socks.PORT in shop.web.netns.listening_ports(), "the SOCKS5 listener")
    assert apps.refused(shop.names, shop.web.ip, socks.PORT)


@pytest.mark.parametrize("reached", [True, False])
def test_a_socks_client_that_waits_while_its_proxy_is_replaced_is_told_by_the_next_process_what_became_of_it(shop, reached):
    shop.web.serve(9000)
    start(shop)
    quick, code = socks.dial(shop.client, shop.web.ip, 8080)
    assert code == socks.SUCCEEDED and quick.recv(100).startswith(b"web sees")
    shop.web.netns.run("nft", "add table inet slow; add chain inet slow out { type filter hook output priority 0; }; "
                              "add rule inet slow out tcp dport 9000 oifname lo drop; add chain inet slow in { type filter hook input priority 0; }; "
                              "add rule inet slow in tcp dport 9000 drop")
    slow = shop.client.connect("127.0.0.1", socks.PORT, timeout=30)
    slow.sendall(socks.HELLO + socks.wish(shop.web.ip, 9000) + b"early")
    shop.nodes[1].ztunnel.wait_line("connection opened.*:9000")
    _, line = replace(shop, shop.nodes[0], UNSTABLE_ENABLE_SOCKS5="true")
    assert (count(line, "connections"), count(line, "left")) == (2, 0), "it holds nothing up"
    echoes(quick, b"on")
    if not reached:
        shop.policy("nobody", [[[{"destinationPorts": [9000]}]]], action="Deny")
        mark = shop.nodes[1].ztunnel.mark()
        shop.write()
        shop.nodes[1].ztunnel.wait_line("local configuration read", since=mark)
    shop.web.netns.run("nft", "delete", "table", "inet", "slow")
    if reached:
        assert apps.read_exactly(slow, 2 + 10 + 5) == b"\x05\x00" + socks.reply(socks.SUCCEEDED) + b"early"
        echoes(slow, b"on")
    else:
        data, end = apps.read_to_end(slow)
        assert (data[:2], len(data), end) == (b"\x05\x00", 2 + 10, apps.FIN)
        assert data[2:] == socks.reply(data[3]) and data[3] != socks.SUCCEEDED
    assert call(shop.client, VIP, 80) == f"web sees {shop.client.ip}"


def test_socks_in_dedicated_mode(shop):
    first = shop.nodes[0]
    shop.write()
    for pod in (shop.client, shop.web):
        dedicated.redirect(pod.netns)
        dedicated.start(pod, shop, UNSTABLE_ENABLE_SOCKS5="true")
    eventually(lambda: socks.PORT in shop.client.netns.listening_ports(), "the SOCKS5 listener")
    assert first.ztunnel is None
    assert call(shop.client, HOST, 80) == f"web sees {shop.client.ip}"
    assert call(shop.client, shop.plain.ip, 8080) == f"plain sees {shop.client.ip}"
    assert denied(shop.client, shop.plain.ip, 9) == socks.REFUSED
