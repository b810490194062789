"""What an operator may demand of the cryptography: post-quantum key exchange, a validated module. Kept, or refused and said."""

import os
import socket
import subprocess

import pytest

from harness import apps
from harness.sniff import Capture

# How a ServerHello says what was agreed: extension 51 (RFC 8446 §4.2.8), its length, the group and the length of the server's share.
HYBRID_SHARE = bytes.fromhex("0033 0464 11ec 0460")  # X25519MLKEM768
X25519_SHARE = bytes.fromhex("0033 0024 001d 0020")
P256_SHARE = bytes.fromhex("0033 0045 0017 0041")


def openssl(*words):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


def openssl_version():
    return tuple(int(n) for n in openssl("version").split()[1].split(".")[:2])


@pytest.fixture
def shop(mesh):
    first, second = mesh.nodes
    mesh.client, mesh.web = first.pod("client"), second.pod("web")
    mesh.web.serve(8080, apps.name_and_echo("web"))
    mesh.write()
    return mesh


def seen_on_the_link(shop):
    """A call from one node to the other; the bytes that went over port 15008 between them."""
    capture = Capture(shop.nodes[0].netns, "eth0", os.path.join(shop.folder, "link.pcap"))
    with capture, shop.client.connect(shop.web.ip, 8080) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert apps.read_to_end(sock) == (f"web sees {shop.client.ip}\nhello".encode(), apps.FIN)
    seen = capture.ports_with_data()
    assert set(seen) == {15008}
    return seen[15008]


def refused(node, **changes):
    node.start_ztunnel(**changes)
    assert node.ztunnel.wait_exit() not in (0, -6, -11), node.ztunnel.text()
    return node.ztunnel.text()


def test_post_quantum_only_is_what_the_link_sees_or_is_refused_at_the_start(shop):
    if openssl_version() < (3, 5):
        said = refused(shop.nodes[0], COMPLIANCE_POLICY="pqc")
        assert "COMPLIANCE_POLICY=pqc needs OpenSSL 3.5 or later" in said and "X25519MLKEM768" in said
        return
    shop.start(COMPLIANCE_POLICY="pqc")
    link = seen_on_the_link(shop)
    assert HYBRID_SHARE in link and X25519_SHARE not in link


def test_without_a_policy_the_key_exchange_is_x25519(shop):
    shop.start()
    link = seen_on_the_link(shop)
    assert X25519_SHARE in link and HYBRID_SHARE not in link


# ---- FIPS ----

CONFIGURATION = """
openssl_conf = init
{module}
[init]
providers = providers
alg_section = algorithms
[providers]
fips = fips_sect
base = base_sect
[base_sect]
activate = 1
[algorithms]
default_properties = fips=yes
"""


def configuration_with_a_validated_module(folder):
    """An openssl.cnf that makes the FIPS provider the default one, as `openssl fipsinstall` wants it; and whether there is such a provider."""
    module = os.path.join(openssl("version", "-m").split('"')[1], "fips.so")
    installed = os.path.exists(module)
    include = os.path.join(folder, "fipsmodule.cnf")
    if installed:
        openssl("fipsinstall", "-quiet", "-module", module, "-out", include)
    path = os.path.join(folder, "openssl.cnf")
    with open(path, "w") as file:
        file.write(CONFIGURATION.format(module=f".include {include}" if installed else "[fips_sect]\nactivate = 1\n"))
    return path, installed


@pytest.mark.parametrize("asked", [{"COMPLIANCE_POLICY": "fips-140-2"}, {"ZT_FIPS": "true"}, {}], ids=["policy", "ZT_FIPS", "openssl.cnf alone"])
def test_a_validated_module_does_all_of_the_cryptography_and_a_missing_one_is_not_pretended(shop, asked):
    configuration, installed = configuration_with_a_validated_module(shop.folder)
    if not installed:
        assert "unsupported" in refused(shop.nodes[0], OPENSSL_CONF=configuration, **asked)
        return
    shop.start(OPENSSL_CONF=configuration, **asked)
    assert P256_SHARE in seen_on_the_link(shop)
    for node in shop.nodes:
        assert node.ztunnel.matching('record layer ready.*aead="?evp')
        assert not node.ztunnel.matching("validated module is not active")


def test_fips_without_a_validated_module_is_warned_of(shop):
    node = shop.nodes[0]
    node.start_ztunnel(COMPLIANCE_POLICY="fips-140-2")
    node.ztunnel.wait_line(r"\twarn\t.*validated module is not active.*openssl.cnf")
