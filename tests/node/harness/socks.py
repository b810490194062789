"""A SOCKS5 client in a pod, byte by byte: what it is told is what a program would be told."""

import socket
import struct

from . import apps

PORT = 15080
HELLO = b"\x05\x01\x00"
SUCCEEDED, NOT_ALLOWED, HOST_UNREACHABLE, REFUSED, NO_SUCH_COMMAND = 0, 2, 4, 5, 7
V4_REFUSED = b"\x00\x5b" + bytes(6)


def wish(host, port, command=1):
    """A request, by name unless `host` is an address."""
    for family, kind in ((socket.AF_INET, 1), (socket.AF_INET6, 4)):
        try:
            return struct.pack(">4B", 5, command, 0, kind) + socket.inet_pton(family, host) + struct.pack(">H", port)
        except OSError:
            pass
    return struct.pack(">5B", 5, command, 0, 3, len(host)) + host.encode() + struct.pack(">H", port)


def reply(code):
    return bytes([5, code, 0, 1]) + bytes(6)


def dial(pod, host, port, ahead=b"", timeout=30):
    """(socket, the code of the answer)"""
    sock = pod.connect("127.0.0.1", PORT, timeout=timeout)
    sock.sendall(HELLO)
    assert apps.read_exactly(sock, 2) == b"\x05\x00"
    sock.sendall(wish(host, port) + ahead)
    answer = apps.read_exactly(sock, 10)
    assert answer == reply(answer[1]), answer
    return sock, answer[1]
