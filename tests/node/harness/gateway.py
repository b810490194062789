"""A network gateway (east-west) that is not ours: ends HBONE with Python's ssl and h2, and passes the bytes of each CONNECT, which are a
tunnel again, on to where `backends` says its authority leads."""

import select
import socket

import h2.config
import h2.connection
import h2.events

from . import apps
from .hbone import certificate, tls_context


class Gateway:
    def __init__(self, pod, mesh, backends, identity=None):
        self.pod, self.backends, self.requests = pod, backends, []  # requests: headers, of all connections
        self._context = tls_context(mesh.ca_folder, *certificate(mesh.folder, mesh.ca_folder, identity or pod.identity), server=True)
        pod.servers.append(apps.Server(pod.netns, 15008, self._serve))

    def _serve(self, raw, _peer):
        try:
            _Connection(self, self._context.wrap_socket(raw, server_side=True)).run()
        except OSError:
            pass  # the client has gone, or does not like us


class _Connection:
    def __init__(self, gateway, sock):
        self.gateway, self.sock = gateway, sock
        sock.setblocking(False)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=False))
        self.h2.initiate_connection()
        self.backends, self.out = {}, bytearray()

    def run(self):
        while True:
            self.out += self.h2.data_to_send()
            readable = [self.sock, *(b for s, b in self.backends.items() if self._room(s))]
            ready, writable, _ = select.select(readable, [self.sock] if self.out else [], [], 0 if self.sock.pending() else 30)
            if writable and self.out:
                try:
                    del self.out[:self.sock.send(self.out)]
                except (BlockingIOError, OSError) as error:
                    if "want" not in str(error).lower() and not isinstance(error, BlockingIOError):
                        raise
            if self.sock in ready or self.sock.pending():
                try:
                    data = self.sock.recv(65536)
                except OSError as error:
                    if "not complete" not in str(error) and not isinstance(error, BlockingIOError):
                        raise
                    continue
                if not data:
                    break
                for event in self.h2.receive_data(data):
                    self._on(event)
            for stream, backend in list(self.backends.items()):
                if backend in ready:
                    self._forward(stream, backend)
        for backend in self.backends.values():
            backend.close()
        self.sock.close()

    def _room(self, stream):
        return min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size) > 0

    def _on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            headers = dict(event.headers)
            self.gateway.requests.append(headers)
            backend = self.gateway.backends.get(headers[":authority"])
            if backend is None:
                return self.h2.send_headers(event.stream_id, [(":status", "503")], end_stream=True)
            self.backends[event.stream_id] = self.gateway.pod.connect(*backend)
            self.h2.send_headers(event.stream_id, [(":status", "200")])
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.backends[event.stream_id].sendall(event.data)
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in self.backends:
            self.backends[event.stream_id].shutdown(socket.SHUT_WR)
        elif isinstance(event, h2.events.StreamReset) and event.stream_id in self.backends:
            self.backends.pop(event.stream_id).close()

    def _forward(self, stream, backend):
        if not self._room(stream):
            return  # another stream has used up the connection's since it was looked at: nothing would look like the end
        data = backend.recv(min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size))
        self.h2.send_data(stream, data, end_stream=not data)
        if not data:
            self.backends.pop(stream).close()
