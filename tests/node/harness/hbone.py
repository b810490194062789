"""An HBONE client that is not ours: Python's ssl and the h2 package. For calls that no well-behaved peer makes."""

import os
import ssl
import subprocess

import h2.config
import h2.connection
import h2.events

ROOT = "embedded-root.pem"  # certificate and key of the root that the embedded CA made


def certificate(folder, ca_folder, identity):
    """A leaf for a SPIFFE identity, signed by the embedded CA: (certificate file, key file). What a thief of the CA could do."""
    name = os.path.join(folder, identity.replace("/", "_").replace(":", "_"))
    key, request, leaf, extensions = name + ".key", name + ".csr", name + ".crt", name + ".ext"
    if os.path.exists(leaf):
        return leaf, key
    with open(extensions, "w") as file:
        file.write(f"subjectAltName=critical,URI:{identity}\nbasicConstraints=critical,CA:FALSE\n"
                   "keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n")
    for command in (
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request, "-subj", "/"],
        ["openssl", "x509", "-req", "-in", request, "-CA", os.path.join(ca_folder, ROOT), "-CAkey",
         os.path.join(ca_folder, ROOT), "-set_serial", str(int.from_bytes(os.urandom(8), "big")), "-days", "1",
         "-extfile", extensions, "-out", leaf],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return leaf, key


def tls_context(ca_folder, leaf=None, key=None, server=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(os.path.join(ca_folder, ROOT))
    if leaf:
        context.load_cert_chain(leaf, key)
    context.set_alpn_protocols(["h2"])
    return context


def client_hello():
    """The first bytes of a TLS client, from OpenSSL."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    tls = context.wrap_bio(incoming, outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


class Tunnel:
    """One TLS connection to port 15008 of a pod."""

    def __init__(self, pod, address, mesh, identity):
        leaf, key = certificate(mesh.folder, mesh.ca_folder, identity)
        raw = pod.connect(address, 15008)
        self.sock = tls_context(mesh.ca_folder, leaf, key).wrap_socket(raw)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8",
                                                                       validate_outbound_headers=False, normalize_outbound_headers=False))
        self.h2.initiate_connection()
        self._flush()

    def _flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def request(self, headers, end_stream=False):
        """Sends a request; its answer: the status, or "reset" if the stream was reset first, or "closed"."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end_stream)
        self._flush()
        while True:
            try:
                data = self.sock.recv(65536)
            except (ssl.SSLError, ConnectionError):
                return "closed"
            if not data:
                return "closed"
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    self._flush()
                    return int(dict(event.headers)[":status"])
                if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                    return "reset"
                if isinstance(event, h2.events.ConnectionTerminated):
                    return "closed"
            self._flush()

    def connect(self, authority):
        return self.request([(":method", "CONNECT"), (":authority", authority)])

    def close(self):
        self.sock.close()
