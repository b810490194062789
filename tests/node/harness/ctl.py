"""ztunnelctl, run on a node."""

import json
import socket
import subprocess
import threading

from . import mesh as meshes


def run(node, *words, code=0):
    """What it prints there."""
    done = subprocess.run([*node.netns.prefix(), meshes.program("ztunnelctl"), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def rows(node, *words, code=0):
    return json.loads(run(node, *words, "-o", "json", code=code))


class PortForward:
    """What `kubectl port-forward` is: a port of this namespace that leads to one of the node's loopback."""

    def __init__(self, node, port):
        self.node, self.to = node, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            with self.node.netns.entered():
                far = socket.create_connection(("127.0.0.1", self.to))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.close()
