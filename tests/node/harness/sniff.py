"""A capture on a link: which TCP ports carried data, and whether given bytes went over it in the clear."""

import signal
import struct
import subprocess
import threading


class Capture:
    """tcpdump on an interface of a namespace. Use as a context; the packets are there when it ends."""

    def __init__(self, netns, interface, path):
        self.path = path
        self._popen = subprocess.Popen(
            [*netns.prefix(), "tcpdump", "-i", interface, "-s", "0", "-U", "--immediate-mode", "-Z", "root", "-w", path, "tcp"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._listening = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._listening.wait(10), "tcpdump does not start"

    def _read(self):
        for line in self._popen.stderr:
            if "listening on" in line:
                self._listening.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._popen.send_signal(signal.SIGINT)
        self._popen.wait(10)

    def raw(self):
        with open(self.path, "rb") as file:
            return file.read()

    def ports_with_data(self):
        """Server-side ports (the lower of each packet's two) of packets that carried TCP payload, with the bytes seen."""
        found = {}
        for payload, source, destination in packets(self.raw()):
            if payload:
                port = min(source, destination)
                found[port] = found.get(port, b"") + payload
        return found


def packets(pcap):
    """(TCP payload, source port, destination port) of each packet of an Ethernet capture file."""
    offset = 24
    while offset + 16 <= len(pcap):
        size = struct.unpack_from("<I", pcap, offset + 8)[0]
        frame = pcap[offset + 16 : offset + 16 + size]
        offset += 16 + size
        kind = struct.unpack_from("!H", frame, 12)[0]
        if kind == 0x0800:
            tcp, end = 14 + (frame[14] & 15) * 4, 14 + struct.unpack_from("!H", frame, 16)[0]
        elif kind == 0x86DD:
            tcp, end = 14 + 40, 14 + 40 + struct.unpack_from("!H", frame, 18)[0]
        else:
            continue
        source, destination = struct.unpack_from("!HH", frame, tcp)
        yield frame[tcp + (frame[tcp + 12] >> 4) * 4 : end], source, destination


def is_tls(data):
    """Starts with a TLS handshake record."""
    return data[:2] == b"\x16\x03"
