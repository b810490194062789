"""Two pods, each with a proxy of its own (PROXY_MODE=dedicated) and static redirection rules: no agent, no ZDS."""

import os
import signal
import socket

from .netns import run
from .process import Process, eventually
from .mesh import program

# The in-pod rules of the contract (§1.6), as an init container would set them. The bench uses the same file.
RULES = """
*mangle
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
-A PREROUTING ! -d 127.0.0.1/32 -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
"""


def redirect(netns):
    run(*netns.prefix(), "iptables-restore", "--noflush", stdin=RULES)
    netns.ip("route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
    netns.ip("rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")


def environment(mesh_file, ca_folder, workload):
    """PACKET_MARK makes the rules see the proxy."""
    return {"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": workload, "LOCAL_XDS_PATH": mesh_file, "XDS_ADDRESS": "",
            "PACKET_MARK": "1337", "EMBEDDED_CA_DIR": ca_folder}


def launch(pod, mesh, by=(), **changes):
    """A proxy for this one pod, in its own namespace. `by`: words before its command, of a program that becomes it."""
    workload = f"{pod.namespace}/{pod.name}/{pod.account}"
    process = Process(f"dedicated ztunnel of {pod.name}", [*by, program("ztunnel"), "proxy"], {**environment(mesh.file, mesh.ca_folder, workload), **changes},
                      pod.netns)
    mesh.processes.append(process)
    return process


def start(pod, mesh, by=(), **changes):
    """It serves when this returns."""
    process = launch(pod, mesh, by, **changes)
    eventually(lambda: not process.alive() or {15001, 15006, 15008} <= pod.netns.listening_ports(), f"the listeners of {pod.name}")
    assert process.alive(), process.text()
    return process


class Service:
    """The proxy of a pod, or of a machine, as deploy/systemd runs it: a restart first starts another one of the same kind, ends the proxy, which gives it what it has,
    and ends it again when there is a new proxy."""

    def __init__(self, pod, mesh, folder, **changes):
        self.pod, self.mesh = pod, mesh
        self.changes = {"ZT_HAND_OVER_PATH": os.path.join(folder, f"{pod.name}.successor"), **changes}
        self.notify = os.path.join(folder, f"{pod.name}.notify")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(self.notify)
        self.manager.settimeout(30)
        self.proxy = self.run()

    def told(self):
        return self.manager.recv(1000).decode()

    def run(self, **changes):
        process = launch(self.pod, self.mesh, NOTIFY_SOCKET=self.notify, **{**self.changes, **changes})
        assert self.told() == "READY=1", process.text()
        return process

    def end(self, process):
        """The line of its hand-over."""
        process.signal(signal.SIGTERM)
        assert self.told() == "STOPPING=1"
        assert process.wait_exit(30) == 0
        lines = process.matching("handed over")
        assert lines, process.text()
        return lines[-1]

    def restart(self, **changes):
        bridge = self.run()
        lines = [self.end(self.proxy)]
        self.proxy = self.run(**changes)
        return [*lines, self.end(bridge)]
