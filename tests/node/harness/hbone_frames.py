"""HBONE peers that are not ours, for what no well-behaved one does: TLS by Python, HTTP/2 frames by hand."""

import socket
import struct
import threading

from . import apps
from .hbone import certificate, tls_context

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
REFUSED_STREAM, CONNECT_ERROR = 7, 10
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STATUS_200 = b"\x88"  # RFC 7541: the eighth entry of the static table


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


def connect(stream, authority):
    """A CONNECT request; HPACK literals without indexing."""
    def literal(name, value):
        return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return frame(HEADERS, END_HEADERS, stream, literal(":method", "CONNECT") + literal(":authority", authority))


def first_frame(sock, kind):
    """Reads frames until one of this kind has come; its payload."""
    while True:
        header = apps.read_exactly(sock, 9)
        payload = apps.read_exactly(sock, int.from_bytes(header[:3], "big"))
        if header[3] == kind:
            return payload


class Connection:
    """What a test's `on_request(connection, stream, number)` may do; `number` counts requests over all connections, from 1."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, kind, flags, stream, payload=b""):
        self.sock.sendall(frame(kind, flags, stream, payload))

    def accept(self, stream):
        self.send(HEADERS, END_HEADERS, stream, STATUS_200)

    def refuse(self, stream, code=REFUSED_STREAM):
        self.send(RST_STREAM, 0, stream, struct.pack("!I", code))

    def say_goodbye(self, last_stream=0x7FFFFFFF):
        self.send(GOAWAY, 0, 0, struct.pack("!II", last_stream, 0))

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)


class HboneServer:
    """On port 15008 of a pod that terminates HBONE by itself, under the pod's identity. Accepted streams echo their bytes."""

    def __init__(self, pod, mesh, on_request):
        self.requests = 0
        self._on_request = on_request
        self._context = tls_context(mesh.ca_folder, *certificate(mesh.folder, mesh.ca_folder, pod.identity), server=True)
        self._lock = threading.Lock()
        self._server = apps.Server(pod.netns, 15008, self._serve)
        pod.servers.append(self._server)

    def _serve(self, raw, _peer):
        sock = self._context.wrap_socket(raw, server_side=True)
        sock.settimeout(None)
        sock.sendall(frame(SETTINGS, 0, 0))
        connection, reader = Connection(sock), sock.makefile("rb")
        try:
            reader.read(len(PREFACE))
            while header := reader.read(9):
                size, kind, flags = int.from_bytes(header[:3], "big"), header[3], header[4]
                stream = struct.unpack("!I", header[5:])[0] & 0x7FFFFFFF
                payload = reader.read(size)
                if kind == SETTINGS and not flags & ACK:
                    connection.send(SETTINGS, ACK, 0)
                elif kind == PING and not flags & ACK:
                    connection.send(PING, ACK, 0, payload)
                elif kind == HEADERS:
                    with self._lock:
                        self.requests += 1
                        number = self.requests
                    self._on_request(connection, stream, number)
                elif kind == DATA:
                    connection.send(DATA, flags & END_STREAM, stream, payload)
        except (OSError, ValueError, struct.error):
            pass  # the client has gone, or the test closed it
