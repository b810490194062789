"""Clients and servers in pods. They are plain sockets of the test process, made in the pod's namespace: what a test sees
(end of stream, reset, addresses) is what the kernel tells an unchanged program."""

import select
import socket
import struct
import threading

TIMEOUT = 10.0
FIN = "end of stream"
RST = "reset"


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reset(sock):
    """Closes with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise AssertionError(f"the stream ended after {len(data)} of {count} bytes")
        data += more
    return bytes(data)


def read_to_end(sock):
    """All bytes, and how the stream ended."""
    data = bytearray()
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            return bytes(data), RST
        if not more:
            return bytes(data), FIN
        data += more


def start(function):
    """Runs it on a thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def fill(sock, quiet=0.3):
    """Writes to a non-blocking socket until it has taken nothing for a while; returns the bytes taken."""
    total = 0
    while select.select([], [sock], [], quiet)[1]:
        try:
            total += sock.send(bytes(65536))
        except BlockingIOError:
            pass
    return total


def refused(pod, address, port):
    """A call that ends with a reset and not a byte: at once, while it connects, or right after (a proxy accepts before it can know)."""
    try:
        with pod.connect(address, port) as sock:
            return read_to_end(sock) == (b"", RST)
    except ConnectionResetError:
        return True


def how_it_ends(sock):
    return read_to_end(sock)[1]


class Server:
    """Listens on a port of a pod; every connection is handled by `handler(socket, peer)` on a thread of its own."""

    def __init__(self, netns, port, handler, address="::"):
        self.port = port
        self.peers = []  # (address, port) of every connection, canonical
        self.errors = []
        self._handler = handler
        self._open = []
        self._listener = netns.socket(family_of(address))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family_of(address) == socket.AF_INET6:
            self._listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._listener.bind((address, port))
        self._listener.listen(256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT)
            address = (peer[0].removeprefix("::ffff:"), peer[1])
            self.peers.append(address)
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()

    def _serve(self, connection, address):
        try:
            self._handler(connection, address)
        except Exception as error:  # the test looks at it, or a broken handler would look like a broken proxy
            self.errors.append(error)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()


def echo(connection, _peer):
    """Sends back what comes; an end of stream is answered by an end of stream."""
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    connection.close()


def echo_whatever_comes(connection, peer):
    """Echoes for clients that may break off at any moment."""
    try:
        echo(connection, peer)
    except OSError:
        connection.close()


def name_and_echo(name):
    """Says first who it is and whom it sees, then echoes."""

    def handler(connection, peer):
        connection.sendall(f"{name} sees {peer[0]}\n".encode())
        echo(connection, peer)

    return handler


def drain(connection, _peer):
    """Reads to the end, answers with the count."""
    total = 0
    while data := connection.recv(1 << 20):
        total += len(data)
    connection.sendall(str(total).encode())
    connection.close()
