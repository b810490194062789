"""Certificate revocation (contract §2.11): lists that the openssl program makes, given to one node's proxy while connections live."""

import fcntl
import json
import os
import ssl
import struct
import subprocess
import termios

import pytest

from harness import apps, hbone
from harness.mesh import write_file
from harness.process import eventually

CUT = "connection closed: peer certificate revoked by CRL"


class Revocations:
    """The file that CRL_PATH names, as the mesh's own CA would write it."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.folder = os.path.join(mesh.folder, "crl")
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, "mesh.crl")

    def _file(self, name, text=None):
        path = os.path.join(self.folder, name)
        if text is not None:
            write_file(path, text)
        return path

    def revoke(self, *serials):
        self._file("index", "".join(f"R\t491231235959Z\t250101000000Z\t{serial}\tunknown\t/CN=x\n" for serial in serials))
        config = self._file("config", f"[ca]\ndefault_ca=mesh\n[mesh]\ndatabase={self._file('index')}\ndefault_md=sha256\ndefault_crl_days=30\n")
        root = os.path.join(self.mesh.ca_folder, "embedded-root.pem")
        made = subprocess.run(["openssl", "ca", "-gencrl", "-config", config, "-keyfile", root, "-cert", root],
                              check=True, capture_output=True, text=True).stdout
        write_file(self.path, made)


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.other = first.pod("client"), first.pod("other")
    mesh.web, mesh.shelf = second.pod("web"), second.pod("shelf")
    mesh.web.serve(8080)
    mesh.shelf.serve(8080)
    mesh.revocations = Revocations(mesh)
    return mesh


def start(mesh, *checking, **environment):
    """Everything up; the proxies of the nodes in `checking` look at the lists."""
    mesh.write()
    for node in mesh.nodes:
        node.write_pods()
        node.start_agent()
        node.start_ztunnel(CRL_PATH=mesh.revocations.path if node in checking else None, **environment)
    for node in mesh.nodes:
        node.wait_ready()
    for pod in mesh.pods:
        if pod.captured:
            pod.wait_captured()


def serial(pod):
    """Of the certificate that the pod's proxy has for it, as openssl writes it."""
    dump = json.loads(pod.node.http(15000, "/config_dump")[1])
    entry = next(c for c in dump["certificates"] if c["identity"] == pod.identity)
    number = f"{int(entry['certChain'][0]['serialNumber']):X}" if entry["certChain"] else ""
    return number.zfill(len(number) + len(number) % 2)


def talk(pod, server):
    sock = pod.connect(server.ip, 8080)
    sock.sendall(b"x")
    assert apps.read_exactly(sock, 1) == b"x"
    return sock


def allowed(pod, server):
    try:
        talk(pod, server).close()
        return True
    except (OSError, AssertionError, EOFError):
        return False


def is_cut(sock):
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def check_revoked(mesh, checking, lost, kept, revoked):
    """`lost` and `kept`: client and server of a connection that the list of `checking` ends, and of one that it does not touch."""
    ztunnel = checking.ztunnel
    ztunnel.wait_line("no revocation lists")  # the file is not there yet, and nobody is kept out by that
    live, other = talk(*lost), talk(*kept)
    mark = ztunnel.mark()
    mesh.revocations.revoke(serial(revoked))
    assert is_cut(live)
    ztunnel.wait_line(f'error="{CUT}"', since=mark)
    assert 'response_flags="CERT_REVOKED"' in checking.http(15020, "/metrics")[1]
    other.sendall(b"y")
    assert apps.read_exactly(other, 1) == b"y"
    assert not allowed(*lost)
    ztunnel.wait_line("peer certificate revoked by CRL: certificate .*, serial number", since=mark)
    assert allowed(*kept)


def check_edits(mesh, checking, lost):
    """What becomes of the revocation that check_revoked() left, when the file is damaged, and when it names nobody."""
    ztunnel = checking.ztunnel
    mark = ztunnel.mark()
    write_file(mesh.revocations.path, "nonsense")
    ztunnel.wait_line("revocation lists refused, the last good ones stay in force", since=mark)
    assert not allowed(*lost)
    write_file(mesh.revocations.path, "")
    ztunnel.wait_line("revocation lists read", since=mark)
    eventually(lambda: allowed(*lost), "the connection to be let in again")


def test_a_server_cuts_and_refuses_a_client_whose_certificate_is_revoked(shop):
    node = shop.nodes[1]
    start(shop, node)
    check_revoked(shop, node, (shop.client, shop.web), (shop.other, shop.web), shop.client)
    check_edits(shop, node, (shop.client, shop.web))
    metric = next(l for l in node.http(15020, "/metrics")[1].splitlines() if l.startswith("istio_crl_policy_rejections_total"))
    assert 'reporter="destination"' in metric and float(metric.split()[-1]) >= 2
    assert 'istio_crl_untracked_connections_total{reporter="destination"} 0' in node.http(15020, "/metrics")[1]


def test_a_client_cuts_and_leaves_a_server_whose_certificate_is_revoked(shop):
    node = shop.nodes[0]
    start(shop, node)
    check_revoked(shop, node, (shop.client, shop.web), (shop.client, shop.shelf), shop.web)


def test_a_proxy_replaces_its_own_certificate_that_is_revoked(shop):
    node = shop.nodes[0]
    start(shop, *shop.nodes)
    talk(shop.client, shop.web).close()
    old, mark = serial(shop.client), node.ztunnel.mark()
    shop.revocations.revoke(old)
    node.ztunnel.wait_line("a certificate of ours is revoked; asking for another", since=mark)
    eventually(lambda: serial(shop.client) not in ("", old), "another certificate")
    eventually(lambda: allowed(shop.client, shop.web), "the client to get through with its new certificate")
    eventually(lambda: "\nzt_certificates_revoked_total 1\n" in node.http(15020, "/metrics")[1], "the metric")


def all_but_the_last_record(sock, context, server_side):
    """Shakes hands as far as our Finished, which is returned unsent: the other side has our certificate and waits for its end."""
    hello_retry = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891")  # RFC 8446 §4.1.3: OpenSSL 3.5 would rather have X25519MLKEM768
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=server_side)
    while True:
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        flight = outgoing.read()
        if done or (server_side and flight and hello_retry not in flight):
            break
        sock.sendall(flight)
        incoming.write(sock.recv(65536))
    records = []
    while flight:
        end = 5 + int.from_bytes(flight[3:5], "big")
        records.append(flight[:end])
        flight = flight[end:]
    sock.sendall(b"".join(records[:-1]))
    return records[-1]


def has_read_everything(netns, sock):
    """Whether the other end of `sock`, which is in `netns`, has taken all that was sent."""
    ours, theirs = sock.getsockname()[1], sock.getpeername()[1]
    unsent = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return not unsent and all(unread == 0 for _, local, peer, unread in netns.tcp_sockets() if (local, peer) == (theirs, ours))


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_peer_that_is_revoked_while_it_shakes_hands_gets_no_tunnel(shop, side):
    """The list comes when the chain has been verified and there is no tunnel yet that it could close."""
    checking, elsewhere = (shop.nodes[1], shop.nodes[0]) if side == "server" else shop.nodes
    slow = elsewhere.pod("slow", captured=False)
    slow.speaks_hbone = True
    start(shop, checking, ZTUNNEL_WORKER_THREADS="1")
    leaf, key = hbone.certificate(shop.folder, shop.ca_folder, slow.identity)
    number = subprocess.run(["openssl", "x509", "-in", leaf, "-noout", "-serial"], check=True, capture_output=True, text=True).stdout
    live = talk(shop.client, shop.web)  # its end tells that the worker has the lists

    if side == "server":
        slowly, there, other = slow.connect(shop.web.ip, 15008), shop.web, shop.client
    else:
        with slow.netns.socket() as listener:
            listener.bind((slow.ip, 15008))
            listener.listen()
            app = shop.client.connect(slow.ip, 9000)
            slowly, there, other = listener.accept()[0], shop.client, shop.web
    finished = all_but_the_last_record(slowly, hbone.tls_context(shop.ca_folder, leaf, key, server=side == "client"), side == "client")
    eventually(lambda: has_read_everything(there.netns, slowly), "the certificate to be read")
    shop.revocations.revoke(serial(other), number.strip().removeprefix("serial="))
    assert is_cut(live)
    slowly.sendall(finished)
    if side == "server":
        assert apps.read_to_end(slowly)[0] == b"", "not even its SETTINGS"
    else:
        assert apps.how_it_ends(app) == apps.RST
    checking.ztunnel.wait_line(r"error: peer certificate revoked by CRL: certificate .*, serial number")
