"""Calls that must never work: a proxy's own ports as destination, another pod's address as authority, a stranger's certificate.
The contract calls them recursive or malicious (§1.7, §4.2); every one must end at once, and must cost nobody else anything."""

import socket
import ssl
import time

import pytest

from harness import apps, hbone, hbone_frames
from harness.mesh import Mesh
from harness.netns import run
from harness.process import eventually

PORTS = [15001, 15006, 15008]
VIP = "10.96.0.20"


@pytest.fixture(scope="module")
def shop():
    with Mesh() as mesh:
        first, second = mesh.nodes
        mesh.client, mesh.near = first.pod("client"), first.pod("near")
        mesh.far, mesh.other = second.pod("far"), second.pod("other")
        mesh.outsider = first.pod("outsider", captured=False)
        for port in PORTS:
            mesh.service(f"trap{port}", VIP[:-1] + str(PORTS.index(port)), port, port, [mesh.far])
        for pod in mesh.pods:
            pod.serve(8080, apps.echo_whatever_comes)
        yield mesh.start()


def destinations(mesh):
    return {
        "loopback": "127.0.0.1", "loopback of IPv6": "::1", "own address": mesh.client.ip, "pod on the same node": mesh.near.ip,
        "pod on the other node": mesh.far.ip, "own address of IPv6": mesh.client.ip6, "pod on the other node, IPv6": mesh.far.ip6,
    }


def dies(sock):
    """No byte comes back and the connection ends within the limit."""
    try:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        data, _ = apps.read_to_end(sock)
    except ConnectionError:
        return True
    return not data or b"HTTP/1" not in data


def proxies_still_work(mesh):
    with mesh.client.connect(mesh.far.ip, 8080) as sock:
        sock.sendall(b"x")
        assert apps.read_exactly(sock, 1) == b"x"


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("where", ["loopback", "loopback of IPv6", "own address", "own address of IPv6", "pod on the same node",
                                   "pod on the other node", "pod on the other node, IPv6"])
def test_a_captured_pod_cannot_call_a_port_of_the_proxy(shop, where, port):
    try:
        sock = shop.client.connect(destinations(shop)[where], port)
    except ConnectionError:
        return
    with sock:
        assert dies(sock)
    proxies_still_work(shop)


@pytest.mark.parametrize("port", PORTS)
def test_a_service_whose_target_is_a_port_of_the_proxy_does_not_loop(shop, port):
    assert apps.refused(shop.client, VIP[:-1] + str(PORTS.index(port)), port)
    proxies_still_work(shop)


@pytest.mark.parametrize("port", [15001, 15006])
def test_an_outsider_cannot_call_a_port_of_the_proxy(shop, port):
    try:
        sock = shop.outsider.connect(shop.far.ip, port)
    except ConnectionError:
        return
    with sock:
        assert dies(sock)
    proxies_still_work(shop)


@pytest.mark.parametrize("port", PORTS)
def test_a_tunnelled_connect_to_a_port_of_the_proxy_is_answered_503(shop, port):
    tunnel = hbone.Tunnel(shop.outsider, shop.far.ip, shop, shop.client.identity)
    assert tunnel.connect(f"{shop.far.ip}:{port}") == 503
    assert tunnel.connect(f"{shop.far.ip}:8080") == 200, "the tunnel itself is not hurt"


def test_a_connect_to_another_pods_address_is_refused(shop):
    tunnel = hbone.Tunnel(shop.outsider, shop.far.ip, shop, shop.client.identity)
    mark = shop.nodes[1].ztunnel.mark()
    assert tunnel.connect(f"{shop.other.ip}:8080") == 400
    assert "ip mismatch" in shop.nodes[1].ztunnel.wait_line("ip mismatch", since=mark)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_connect_is_served(shop, method):
    tunnel = hbone.Tunnel(shop.outsider, shop.far.ip, shop, shop.client.identity)
    headers = [(":method", method), (":scheme", "https"), (":path", "/"), (":authority", f"{shop.far.ip}:8080")]
    assert tunnel.request(headers, end_stream=True) in (400, 404)


def test_another_trust_domain_is_refused(shop):
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        tunnel = hbone.Tunnel(shop.outsider, shop.far.ip, shop, "spiffe://elsewhere.example/ns/shop/sa/client")
        answer = tunnel.connect(f"{shop.far.ip}:8080")
        assert answer == 200, answer


def test_no_certificate_no_tunnel(shop):
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        sock = hbone.tls_context(shop.ca_folder).wrap_socket(shop.outsider.connect(shop.far.ip, 15008))
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert apps.read_to_end(sock)[0], "the server has ended it"


def test_a_stranger_with_his_own_ca_gets_no_tunnel(shop, tmp_path):
    key, leaf = str(tmp_path / "key"), str(tmp_path / "crt")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", leaf, "-subj", "/",
        "-addext", f"subjectAltName=URI:{shop.client.identity}", "-days", "1")
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        sock = hbone.tls_context(shop.ca_folder, leaf, key).wrap_socket(shop.outsider.connect(shop.far.ip, 15008))
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert apps.read_to_end(sock)[0], "the server has ended it"


def test_garbage_on_every_port_ends_there(shop):
    for port in PORTS:
        for pod in (shop.outsider, shop.client):
            try:
                with pod.connect(shop.far.ip, port, timeout=20) as sock:
                    sock.sendall(b"\x00\xff" * 5000)
                    sock.shutdown(socket.SHUT_WR)
                    apps.read_to_end(sock)
            except ConnectionError:
                pass
    proxies_still_work(shop)


@pytest.mark.parametrize("port", [15020, 15021])
def test_a_pod_that_holds_connections_to_an_http_port_shuts_out_no_probe(shop, port):
    """More than the server may have; they would be closed for their silence after 2 s, the probes come before."""
    node = shop.nodes[0]
    held = [shop.outsider.connect("192.168.77.1", port) for _ in range(300)]
    try:
        assert node.ready()
        status, metrics = node.http(15020, "/metrics")
        assert status == 200 and metrics.endswith("# EOF\n")
        assert node.http(15000, "/")[0] == 200
    finally:
        for sock in held:
            sock.close()


def test_a_flood_of_refused_connections_makes_a_few_lines_and_an_exact_count(shop):
    """What is no TLS at 15008 is refused and logged; who sends it chooses how often."""
    node, count = shop.nodes[1], 300

    def refused():
        _, metrics = node.http(15020, "/metrics")
        return sum(int(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith("zt_early_denials_total{"))

    def lines():
        return [line for line in node.ztunnel.text().splitlines() if f"src.addr={shop.outsider.ip}" in line]

    before, logged, begun = refused(), len(lines()), time.monotonic()
    for _ in range(count):
        with shop.outsider.connect(shop.far.ip, 15008) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    eventually(lambda: refused() >= before + count, "all refusals counted")
    seconds = time.monotonic() - begun
    eventually(lambda: any("connections failed" in line for line in lines()), "the rest to be summed up")
    assert len(lines()) - logged <= 11 * (seconds + 3)


def test_a_peer_that_floods_its_tunnel_is_ended_and_said(shop):
    """Its frames move nothing. It proved who it is, and still learns nothing but ENHANCE_YOUR_CALM."""
    node = shop.nodes[1]

    def ended():
        _, metrics = node.http(15020, "/metrics")
        return 'zt_limit_reached_total{limit="peer_flood"} 1\n' in metrics

    leaf, key = hbone.certificate(shop.folder, shop.ca_folder, shop.client.identity)
    with hbone.tls_context(shop.ca_folder, leaf, key).wrap_socket(shop.outsider.connect(shop.far.ip, 15008)) as tls:
        tls.sendall(hbone_frames.PREFACE + hbone_frames.frame(hbone_frames.SETTINGS, 0, 0))
        try:
            for _ in range(100):
                tls.sendall(hbone_frames.frame(hbone_frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 1000)
        except (ssl.SSLError, ConnectionError):
            pass  # it ended while we wrote
        eventually(ended, "the flood to be counted")
    said = f"src.addr={shop.outsider.ip}.*too many"
    node.ztunnel.wait_line(said)
    proxies_still_work(shop)
    assert len(node.ztunnel.matching(said)) == 1
