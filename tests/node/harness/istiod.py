"""A node whose proxy lives under a control plane: tests/support/istiod's fake istiod, which answers as recordings of the real
one show, and misbehaves on command. It runs in the node's namespace on its loopback:

    node 1 (namespace)
      fake_istiod 127.0.0.1:15012 (delta ADS and CA)
      ztunnel, ztunnel-agent
      pods 10.244.1.x

What the control plane says is what `publish` is given; resources are protobuf in its JSON form.
"""

import base64
import ipaddress
import json
import os

from .mesh import Mesh, program, write_file
from .process import Process, eventually

PORT = 15012
ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"


def packed(ip):
    return base64.b64encode(ipaddress.ip_address(ip).packed).decode()


def workload(pod, services=(), policies=()):
    """The Address resource that istiod would send for this pod: (name, message)."""
    uid = f"Kubernetes//Pod/{pod.namespace}/{pod.name}"
    return uid, {"workload": {
        "uid": uid, "name": pod.name, "namespace": pod.namespace, "addresses": [packed(pod.ip), packed(pod.ip6)],
        "tunnelProtocol": "HBONE" if pod.speaks_hbone else "NONE", "serviceAccount": pod.account, "node": pod.node.name,
        "canonicalName": pod.name, "workloadName": pod.name, "workloadType": "POD", "clusterId": "Kubernetes",
        "services": {key: {"ports": [{"servicePort": s, "targetPort": t} for s, t in ports.items()]} for key, ports in services},
        "authorizationPolicies": list(policies)}}


def service(name, vip, ports, namespace="shop"):
    hostname = f"{name}.{namespace}.svc.cluster.local"
    return f"{namespace}/{hostname}", {"service": {
        "name": name, "namespace": namespace, "hostname": hostname, "addresses": [{"address": packed(vip)}],
        "ports": [{"servicePort": s, "targetPort": t} for s, t in ports.items()]}}


def policy(name, matches, action="ALLOW", scope="NAMESPACE", namespace="shop"):
    """One rule with one clause per match."""
    return f"{namespace}/{name}", {"name": name, "namespace": namespace, "scope": scope, "action": action,
                                   "rules": [{"clauses": [{"matches": [m]} for m in matches]}]}


def response(type_url, resources=(), removed=(), version="v1", aliases=None):
    """A message may have an "@type" of its own."""
    return json.dumps({
        "typeUrl": type_url, "nonce": "by-hand", "removedResources": list(removed),
        "resources": [{"name": name, "version": version, "aliases": (aliases or {}).get(name, []),
                       "resource": {"@type": type_url, **message}} for name, message in resources]})


class Istiod(Process):
    def __init__(self, node, folder):
        self.folder, self._files = folder, 0
        os.makedirs(folder, exist_ok=True)
        super().__init__(f"fake istiod of {node.name}", [program("fake_istiod"), "--port", str(PORT), "--roots", folder],
                         netns=node.netns, takes_input=True)
        self.wait_line("serving")
        self.root = os.path.join(folder, "root-cert.pem")
        self.next_root = os.path.join(folder, "next-root-cert.pem")

    def say(self, *words):
        """One command; returns the lines that it answered with."""
        mark = self.mark()
        self.popen.stdin.write(" ".join(words) + "\n")
        self.popen.stdin.flush()
        self.wait_line(r"^ok$", since=mark, timeout=20)
        return [line for line in self.matching("", since=mark) if line != "ok"]

    def publish(self, type_url, resources=(), removed=(), **more):
        self._files += 1
        path = os.path.join(self.folder, f"push-{self._files}.json")
        write_file(path, response(type_url, resources, removed, **more))
        self.say("push", path)

    def addresses(self, *resources, removed=(), **more):
        self.publish(ADDRESS, resources, removed, **more)

    def policies(self, *resources, removed=(), **more):
        self.publish(AUTHORIZATION, resources, removed, **more)

    def raw(self, content, times=1):
        """One message of these bytes, so many times over; or a response(), sent as it is and not kept."""
        path = os.path.join(self.folder, "raw" + (".json" if isinstance(content, str) else ""))
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        self.say("raw", path, str(times))

    def streams(self):
        return int(self.say("streams")[0])


class ControlledMesh(Mesh):
    """One node under a fake istiod. Use as a context, as Mesh."""

    def __init__(self):
        super().__init__(nodes=1)
        self.node = self.nodes[0]
        self.istiod = Istiod(self.node, os.path.join(self.folder, "istiod"))
        self.processes.append(self.istiod)
        self.token = os.path.join(self.folder, "token")
        write_file(self.token, "first-token\n")
        self.environment = {
            "XDS_ADDRESS": f"https://127.0.0.1:{PORT}", "CA_ADDRESS": f"https://127.0.0.1:{PORT}", "XDS_ROOT_CA": self.istiod.root,
            "CA_ROOT_CA": self.istiod.root, "AUTH_TOKEN": self.token, "LOCAL_XDS_PATH": None, "EMBEDDED_CA_DIR": None,
            "ZT_LOCAL_DIRECT": "false",  # what the tests here say of tunnels is said of those between these pods
            "POD_NAME": "ztunnel-x", "POD_NAMESPACE": "istio-system", "INSTANCE_IP": "192.168.77.1"}

    def launch(self, **changes):
        """Agent and proxy, without waiting for anything."""
        self.node.write_pods()
        self.node.start_agent()
        self.node.start_ztunnel(**{**self.environment, **changes})
        return self.node.ztunnel

    def start(self, **changes):
        self.launch(**changes)
        self.node.wait_ready()
        for pod in self.pods:
            if pod.captured:
                pod.wait_captured()
        return self

    def metric(self, name, **labels):
        """The sum of the series of this name that have these labels; None if there is none."""
        total = None
        for line in self.node.http(15020, "/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if series.split("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total = (total or 0) + float(value)
        return total

    def wait_metric(self, check, name, timeout=10.0, **labels):
        """Scrapes lag behind by a second."""
        eventually(lambda: check(self.metric(name, **labels)), f"{name}{labels or ''} (now {self.metric(name, **labels)})", timeout, 0.1)

    def certificate(self, pod):
        """As the dump shows it."""
        known = {c["identity"]: c for c in self.dump()["certificates"]}
        return known.get(pod.identity, {"state": "none", "certChain": []})

    def dump(self):
        return json.loads(self.node.http(15000, "/config_dump")[1])
