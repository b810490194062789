"""The control plane's name is looked up as the node looks up names."""

import os

from harness import istiod as control
from harness.istiod import PORT, ControlledMesh
from harness.mesh import program, write_file
from harness.process import Process

# The proxy alone sees these two files.
WITH_FILES = 'mount --bind "$HOSTS" /etc/hosts && mount --bind "$RESOLV" /etc/resolv.conf && exec "$0" proxy'


def test_a_name_in_etc_hosts_needs_no_name_server():
    """An address of another family is not asked for where nobody answers, which would cost 5 s before each first call."""
    with ControlledMesh() as mesh:
        node, pod = mesh.node, mesh.node.pod("client")
        # Queries get no answer, not even an error.
        node.netns.ip("link", "add", "nowhere", "type", "veth", "peer", "name", "nobody")
        node.netns.ip("addr", "add", "192.0.2.1/24", "dev", "nowhere")
        node.netns.ip("link", "set", "nowhere", "up")
        node.netns.ip("link", "set", "nobody", "up")
        node.netns.ip("neigh", "add", "192.0.2.53", "lladdr", "02:00:00:00:00:53", "dev", "nowhere")
        hosts, resolv = os.path.join(mesh.folder, "hosts"), os.path.join(mesh.folder, "resolv.conf")
        write_file(hosts, "127.0.0.1 localhost istiod.istio-system.svc\n")
        write_file(resolv, "nameserver 192.0.2.53\noptions timeout:5\n")
        address = f"https://istiod.istio-system.svc:{PORT}"
        mesh.istiod.addresses(control.workload(pod))
        node.write_pods()
        node.start_agent()
        environment = node.proxy_env(**{**mesh.environment, "XDS_ADDRESS": address, "CA_ADDRESS": address,
                                        "ALT_XDS_HOSTNAME": "localhost", "ALT_CA_HOSTNAME": "localhost"})
        node.ztunnel = Process("ztunnel", ["unshare", "--mount", "sh", "-ec", WITH_FILES, program("ztunnel")],
                               {**environment, "HOSTS": hosts, "RESOLV": resolv}, node.netns)
        mesh.processes.append(node.ztunnel)
        node.ztunnel.wait_line("Stream established", timeout=4)
        mesh.wait_metric(lambda certificates: certificates, "zt_ca_request_duration_seconds_count", timeout=4)
