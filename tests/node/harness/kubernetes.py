"""A Kubernetes API server as far as a node agent sees it: list in pages, watch, merge patch, tokens, over real TLS on the node's
loopback. It holds what the test puts, and misbehaves on command.

The agent looks for pods in a /proc of the test's making, whose entries lead to the pods' real network namespaces.
"""

import copy
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.parse

from .mesh import program, write_file
from .process import Process, eventually

STATUS = "ambient.istio.io/redirection"
MODE = "istio.io/dataplane-mode"
TOKEN = "token-of-the-agent"


def certificates(folder, address="127.0.0.1"):
    """A CA and a certificate for an address: (certificate, key, CA), as paths."""
    ca, ca_key, cert, key, csr = (os.path.join(folder, n) for n in ("ca.crt", "ca.key", "api.crt", "api.key", "api.csr"))

    def openssl(*words, text=None):
        subprocess.run(["openssl", *words], check=True, capture_output=True, input=text)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", ca_key, "-out", ca, "-subj", "/CN=kubernetes",
            "-days", "2")
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", csr, "-subj", "/CN=apiserver")
    extensions = os.path.join(folder, "api.ext")
    write_file(extensions, f"subjectAltName=IP:{address},DNS:kubernetes.default.svc\n")
    openssl("x509", "-req", "-in", csr, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert, "-days", "2", "-extfile", extensions)
    return cert, key, ca


class Kubernetes:
    """Objects by (kind, key); each change has a version and is an event to those who watch."""

    def __init__(self, folder, netns, address="127.0.0.1"):
        self.folder = os.path.join(folder, "kubernetes-" + netns.name)
        os.makedirs(self.folder)
        cert, key, _ = certificates(self.folder, address)
        self.token = TOKEN
        write_file(os.path.join(self.folder, "token"), TOKEN)
        self.objects, self.events, self.version, self.oldest = {"pods": {}, "namespaces": {}}, [], 1000, 0
        self.requests, self.patches = [], []
        self.fail_patches = 0      # so many are answered with 500
        self.hold_events = False   # changes are seen by nobody until it is over
        self.daemon_set = "there"  # the agent's own: "there", "being deleted", "gone", "refused"
        self.generation = 0        # a watch of an older one ends
        self.changed = threading.Condition()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                api.get(self)

            def do_PATCH(self):
                api.patch(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self):
                sock, address = super().get_request()
                sock.settimeout(60)
                return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

            def handle_error(self, *_):
                pass

        with netns.entered():
            self.server = Server((address, 0), Handler)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self):
        with self.changed:
            self.generation += 1
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    # ---- what a test does
    def put(self, kind, key, **parts):
        """Makes or replaces parts of an object: labels, annotations, spec, status, uid."""
        with self.changed:
            made = key not in self.objects[kind]
            now = self.objects[kind].setdefault(key, {"metadata": {"name": key.split("/")[-1], "labels": {}, "annotations": {}}, "spec": {}, "status": {}})
            now = self.objects[kind][key] = copy.deepcopy(now)
            if "/" in key:
                now["metadata"]["namespace"] = key.split("/")[0]
            for part in ("labels", "annotations", "uid"):
                if part in parts:
                    now["metadata"][part] = parts[part]
            now["metadata"].setdefault("uid", f"uid-of-{key.replace('/', '-')}")
            for part in ("spec", "status"):
                now[part].update(parts.get(part, {}))
            self._event("ADDED" if made else "MODIFIED", kind, now)

    def delete(self, kind, key):
        with self.changed:
            self._event("DELETED", kind, copy.deepcopy(self.objects[kind].pop(key)))

    def label_namespace(self, name, mode):
        self.put("namespaces", name, labels={MODE: mode} if mode else {})

    def put_pod(self, pod, phase="Running", **parts):
        """A pod of the mesh as the API shows it."""
        self.put("pods", f"{pod.namespace}/{pod.name}", uid=pod.uid,
                 spec={"nodeName": pod.node.name, "serviceAccountName": pod.account, **parts.pop("spec", {})},
                 status={"phase": phase, "podIP": pod.ip, "podIPs": [{"ip": pod.ip}, {"ip": pod.ip6}]}, **parts)

    def status_of(self, pod):
        with self.changed:
            return self.objects["pods"][f"{pod.namespace}/{pod.name}"]["metadata"].get("annotations", {}).get(STATUS)

    def wait_status(self, pod, status):
        eventually(lambda: self.status_of(pod) == status, f"{pod.name} to be annotated {status}; it is {self.status_of(pod)}", timeout=20)

    def end_watches(self, forget=False):
        """All watches end; with `forget`, where they were is too old."""
        with self.changed:
            self.generation += 1
            if forget:
                self.events.clear()
                self.version += 1
                self.oldest = self.version
            self.changed.notify_all()

    # ---- what the agent sees
    def _event(self, kind_of, kind, obj):
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, kind, kind_of, obj))
        self.changed.notify_all()

    def _answer(self, handler, code, body, **headers):
        data = json.dumps(body).encode()
        handler.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    def _refuse(self, handler, code, reason, message=""):
        self._answer(handler, code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message or reason})

    def _allowed(self, handler):
        with self.changed:
            self.requests.append(f"{handler.command} {handler.path}")
        if handler.headers.get("Authorization") == f"Bearer {self.token}":
            return True
        self._refuse(handler, 401, "Unauthorized")
        return False

    @staticmethod
    def _matches(query, obj):
        selector = query.get("fieldSelector", [""])[0]
        return not selector or obj["spec"].get("nodeName") == selector.removeprefix("spec.nodeName=")

    def get(self, handler):
        if not self._allowed(handler):
            return
        url = urllib.parse.urlsplit(handler.path)
        query = urllib.parse.parse_qs(url.query)
        kind = url.path.rsplit("/", 1)[-1]
        if url.path == "/apis/apps/v1/namespaces/istio-system/daemonsets/istio-cni-node":
            if self.daemon_set == "gone":
                return self._refuse(handler, 404, "NotFound")
            if self.daemon_set == "refused":
                return self._refuse(handler, 403, "Forbidden")
            deleting = {"deletionTimestamp": "2026-11-28T09:00:00Z"} if self.daemon_set == "being deleted" else {}
            return self._answer(handler, 200, {"metadata": {"name": kind, "namespace": "istio-system", "uid": "d", **deleting}})
        if kind not in self.objects:
            return self._refuse(handler, 404, "NotFound")
        if "watch" in query:
            return self._watch(handler, kind, query)
        limit = int(query.get("limit", ["0"])[0])
        with self.changed:
            items = [copy.deepcopy(obj) for _, obj in sorted(self.objects[kind].items()) if self._matches(query, obj)]
            version = self.version
        after = int(query.get("continue", ["0"])[0])
        page = items[after:after + limit] if limit else items
        more = str(after + limit) if limit and after + limit < len(items) else ""
        self._answer(handler, 200, {"metadata": {"resourceVersion": str(version), "continue": more}, "items": page})

    def _watch(self, handler, kind, query):
        at = int(query["resourceVersion"][0])
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True

        def send(kind_of, obj):
            line = json.dumps({"type": kind_of, "object": obj}).encode() + b"\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        with self.changed:
            generation, oldest = self.generation, self.oldest
        if at < oldest:
            send("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"})
        else:
            self._stream(send, kind, query, at, generation)
        handler.wfile.write(b"0\r\n\r\n")

    def _stream(self, send, kind, query, at, generation):
        bookmark = time.monotonic() + 5
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.generation != generation or (not self.hold_events and self.version > at), timeout=1)
                if self.generation != generation:
                    return
                due = [] if self.hold_events else [e for e in self.events if e[0] > at]
            for version, of, kind_of, obj in due:
                at = version
                if of == kind and self._matches(query, obj):
                    send(kind_of, obj)
            if time.monotonic() > bookmark and not self.hold_events:
                send("BOOKMARK", {"metadata": {"resourceVersion": str(at)}})
                bookmark = time.monotonic() + 5

    def patch(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if not self._allowed(handler):
            return
        parts = urllib.parse.urlsplit(handler.path).path.split("/")  # /api/v1/namespaces/NS/pods/NAME/status
        key = f"{parts[4]}/{parts[6]}"
        with self.changed:
            self.patches.append((key, body["metadata"]["annotations"][STATUS]))
            if self.fail_patches > 0:
                self.fail_patches -= 1
                refusal = (500, "InternalError")
            elif key not in self.objects["pods"]:
                refusal = (404, "NotFound")
            elif self.objects["pods"][key]["metadata"]["uid"] != body["metadata"]["uid"]:
                refusal = (422, "Invalid")
            else:
                refusal = None
                now = self.objects["pods"][key] = copy.deepcopy(self.objects["pods"][key])
                for name, value in body["metadata"]["annotations"].items():
                    if value is None:
                        now["metadata"].get("annotations", {}).pop(name, None)
                    else:
                        now["metadata"].setdefault("annotations", {})[name] = value
                self._event("MODIFIED", "pods", now)
        if refusal:
            return self._refuse(handler, *refusal)
        self._answer(handler, 200, now)


class Processes:
    """A /proc that holds the processes that the test says."""

    def __init__(self, folder, node):
        self.folder = os.path.join(folder, f"{node.name}-proc")
        self.node = node
        self._last = 1
        self.add(None, node.netns, pid=1)

    def add(self, uid, netns, pid=None):
        if pid is None:
            self._last += 1
            pid = self._last
        entry = os.path.join(self.folder, str(pid))
        os.makedirs(os.path.join(entry, "ns"))
        write_file(os.path.join(entry, "cgroup"), f"0::/kubepods/burstable/pod{uid}/{'c' * 64}\n" if uid else "0::/init.scope\n")
        write_file(os.path.join(entry, "stat"), f"{pid} (app) S " + "0 " * 18 + f"{pid} 0\n")
        os.symlink(netns.path, os.path.join(entry, "ns", "net"))
        return pid

    def add_kubelet(self, user):
        """A kubelet of the node that runs as this user."""
        pid = self.add(None, self.node.netns)
        write_file(os.path.join(self.folder, str(pid), "comm"), "kubelet\n")
        write_file(os.path.join(self.folder, str(pid), "status"), f"Name:\tkubelet\nUid:\t{user}\t{user}\t{user}\t{user}\n")

    def end(self, pid):
        for name in ("cgroup", "stat"):
            os.unlink(os.path.join(self.folder, str(pid), name))


class KubernetesNode:
    """A node of a mesh whose agent is told of its pods by a Kubernetes API."""

    def __init__(self, mesh, node):
        self.mesh, self.node = mesh, node
        self.api = Kubernetes(mesh.folder, node.netns)
        self.processes = Processes(mesh.folder, node)
        self.cni_socket = os.path.join(mesh.folder, f"{node.name}-cni.sock")
        self.pids = {}

    def add(self, pod, **parts):
        self.pids[pod.uid] = self.processes.add(pod.uid, pod.netns)
        self.api.put_pod(pod, **parts)

    def start_agent(self, **changes):
        node = self.node
        node.agent = Process(f"ztunnel-agent of {node.name}", [program("ztunnel-agent")], {
            "ZTUNNEL_AGENT_SOURCE": "kubernetes", "NODE_NAME": node.name, "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.api.port), "ZTUNNEL_AGENT_SERVICE_ACCOUNT": self.api.folder,
            "ZTUNNEL_AGENT_HOST_PROC": self.processes.folder, "ZTUNNEL_AGENT_CNI_SOCKET": self.cni_socket,
            "ZTUNNEL_UDS_ADDRESS": node.zds_socket, "ZTUNNEL_AGENT_VERIFY_INTERVAL": "1s", "RUST_LOG": "debug", **changes}, node.netns)
        self.mesh.processes.append(node.agent)

    def close(self):
        self.api.close()
