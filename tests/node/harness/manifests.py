"""deploy/'s manifests as containers: what kubelet makes of a DaemonSet's pod, in the fields of the runtime's interface."""

import os
import pathlib

import yaml

from . import cri
from .container_node import API, MASKED, READ_ONLY

DEPLOY = pathlib.Path(__file__).resolve().parents[3] / "deploy"


def daemon_set(path):
    """The DaemonSet in a file under deploy/."""
    return next(kind for kind in yaml.safe_load_all((DEPLOY / path).read_text()) if kind and kind["kind"] == "DaemonSet")


def container_of(kind):
    return kind["spec"]["template"]["spec"]["containers"][0]


def environment(kind, node, pod, changes):
    refs = {"metadata.name": pod.name, "metadata.namespace": pod.namespace, "spec.nodeName": node.name, "status.podIP": pod.ip,
            "spec.serviceAccountName": pod.account}
    env = {}
    for variable in container_of(kind)["env"]:
        source = variable.get("valueFrom", {})
        env[variable["name"]] = (refs[source["fieldRef"]["fieldPath"]] if "fieldRef" in source
                                 else str(os.cpu_count()) if "resourceFieldRef" in source else variable["value"])
    env.update({"KUBERNETES_SERVICE_HOST": API, "KUBERNETES_SERVICE_PORT": str(node.api.port)}, **changes)
    return [{1: name, 2: value} for name, value in env.items()]


def mounts(kind, node, pod, contents, extra):
    """`contents`: {volume: {file: text}} of volumes that are no folders of the node; `extra`: further {path in the container: path here}."""
    sources = {}
    for volume in kind["spec"]["template"]["spec"]["volumes"]:
        if "hostPath" in volume:
            path = volume["hostPath"]["path"]
            sources[volume["name"]] = node.folder + path if path.startswith(("/etc", "/opt")) else path
        else:
            sources[volume["name"]] = folder = os.path.join(node.folder, "volumes", pod.name, volume["name"])
            os.makedirs(folder)
            for name, text in contents.get(volume["name"], {}).items():
                pathlib.Path(folder, name).write_text(text)
    propagation = {None: cri.PRIVATE, "HostToContainer": cri.HOST_TO_CONTAINER, "Bidirectional": cri.BIDIRECTIONAL}
    made = [{1: mount["mountPath"], 2: sources[mount["name"]], 3: mount.get("readOnly", False), 5: propagation[mount.get("mountPropagation")]}
            for mount in container_of(kind)["volumeMounts"]]
    made.append({1: "/var/run/secrets/kubernetes.io/serviceaccount", 2: node.api.folder, 3: True})
    return made + [{1: inside, 2: str(outside)} for inside, outside in extra.items()]


def seccomp_of(security, profile):
    if profile:
        return {1: cri.LOCALHOST, 2: str(profile)}
    return {1: {"RuntimeDefault": cri.RUNTIME_DEFAULT, "Unconfined": cri.UNCONFINED}[security["seccompProfile"]["type"]]}


def start(kind, node, pod, image, seccomp=None, contents=None, extra=None, **env):
    """Starts the DaemonSet's container in the pod's sandbox. `seccomp`: a file of deploy/ in place of the manifest's profile."""
    container = container_of(kind)
    security = container["securityContext"]
    capabilities = {key: [str(name) for name in security["capabilities"].get(key_of, [])] for key, key_of in ((1, "add"), (2, "drop"))}
    node.start_container(
        pod, container["name"], image, f3=container.get("command", []), f4=container.get("args", []), f6=environment(kind, node, pod, env),
        f7=mounts(kind, node, pod, contents or {}, extra or {}),
        f15={1: {3: 102}, 2: {
            1: capabilities, 2: security["privileged"], 3: {1: cri.POD}, 5: {1: security["runAsUser"]}, 7: security["readOnlyRootFilesystem"],
            11: not security["allowPrivilegeEscalation"], 12: {1: security["runAsGroup"]}, 13: MASKED, 14: READ_ONLY,
            15: seccomp_of(security, seccomp), 16: {1: cri.UNCONFINED}}})
