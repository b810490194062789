"""Name servers in pods, whose answers are made by the test byte for byte, and raw queries."""

import socket
import struct
import threading

from .apps import TIMEOUT, read_exactly

A, CNAME, SOA, TXT, AAAA, SRV, OPT, AXFR = 1, 5, 6, 16, 28, 33, 41, 252
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


def wire_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".") if label) + b"\0"


def query(name, kind=A, ident=0x1234, flags=0x0100, additional=b"", count=0):
    return struct.pack(">6H", ident, flags, 1, 0, 0, count) + wire_name(name) + struct.pack(">2H", kind, 1) + additional


def question_of(message):
    """The name in lower case, the type, and the question section itself."""
    at, labels = 12, []
    while message[at]:
        labels.append(message[at + 1:at + 1 + message[at]].decode().lower())
        at += message[at] + 1
    return ".".join(labels), struct.unpack_from(">H", message, at + 1)[0], message[12:at + 5]


def record(kind, data, ttl=60, owner=b"\xc0\x0c"):
    return owner + struct.pack(">2HIH", kind, 1, ttl, len(data)) + data


def reply(message, answers=(), rcode=NOERROR, flags=0x8180, authority=(), additional=()):
    """To a query: its id, opcode and question, these records."""
    ident, asked = struct.unpack_from(">2H", message)
    head = struct.pack(">6H", ident, flags | (asked & 0x7900) | rcode, 1, len(answers), len(authority), len(additional))
    return head + question_of(message)[2] + b"".join([*answers, *authority, *additional])


def address(ip):
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


def zone(records, ttl=60):
    """Answers from {name: address or list of addresses}; all else does not exist, and may be remembered so for a minute."""
    soa = record(SOA, wire_name("ns.example") + wire_name("root.example") + struct.pack(">5I", 1, 60, 60, 60, 60))

    def answer(message, _transport):
        name, kind, _ = question_of(message)
        if name not in records:
            return [reply(message, rcode=NXDOMAIN, authority=[soa])]
        ips = [records[name]] if isinstance(records[name], str) else records[name]
        found = [record(AAAA if ":" in ip else A, address(ip), ttl) for ip in ips if (":" in ip) == (kind == AAAA) and kind in (A, AAAA)]
        return [reply(message, found, authority=[] if found else [soa])]

    return answer


class NameServer:
    """UDP and TCP 53 of a pod. `answer(query, "udp" or "tcp")` gives the messages to send back."""

    def __init__(self, pod, answer, ip=None):
        self.pod, self.answer, self.ip = pod, answer, ip or pod.ip
        self.queries = []  # (transport, message, port of the sender)
        self.connections = 0
        family = socket.AF_INET6 if ":" in self.ip else socket.AF_INET
        self._udp = pod.netns.socket(family, socket.SOCK_DGRAM)
        self._udp.bind((self.ip, 53))
        self._tcp = pod.netns.socket(family)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind((self.ip, 53))
        self._tcp.listen(64)
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()
        pod.servers.append(self)
        self.errors = []

    def asked(self, name, transport=None):
        return [m for t, m, _ in list(self.queries) if question_of(m)[0] == name and transport in (None, t)]

    def _serve_udp(self):
        while True:
            try:
                message, sender = self._udp.recvfrom(65535)
            except OSError:
                return
            self.queries.append(("udp", message, sender[1]))
            for out in self.answer(message, "udp"):
                try:
                    self._udp.sendto(out, sender)
                except OSError:
                    return

    def _serve_tcp(self):
        while True:
            try:
                connection, sender = self._tcp.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve_connection, args=(connection, sender), daemon=True).start()

    def _serve_connection(self, connection, sender):
        connection.settimeout(TIMEOUT)
        try:
            while True:
                message = read_message(connection)
                self.queries.append(("tcp", message, sender[1]))
                for out in self.answer(message, "tcp"):
                    connection.sendall(struct.pack(">H", len(out)) + out)
        except (OSError, AssertionError):
            connection.close()

    def close(self):
        self._udp.close()
        try:
            self._tcp.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._tcp.close()


def read_message(connection):
    return read_exactly(connection, struct.unpack(">H", read_exactly(connection, 2))[0])


def udp_socket(pod, server):
    sock = pod.netns.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.connect((server, 53))
    return sock


def ask(pod, server, message):
    """One query over UDP, as it is; the answer, as it is."""
    with udp_socket(pod, server) as sock:
        sock.send(message)
        return sock.recv(65535)


def ask_tcp(pod, server, message):
    with pod.connect(server, 53) as sock:
        sock.sendall(struct.pack(">H", len(message)) + message)
        return read_message(sock)


def rcode(message):
    return message[3] & 15


def addresses(message):
    """A records whose data end the message: enough for answers of one address."""
    return socket.inet_ntop(socket.AF_INET, message[-4:])
