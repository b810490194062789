"""A mesh to ask names in, and programs that ask.

    node 1: client (captured)        node 2: web, db-0, db-1 (captured), names (to be a name server, outside the mesh)
"""

VIP, VIP6, DOMAIN = "10.96.0.10", "fd00:10:96::10", "cluster.local"
WWW = {"www.example.com": ["192.0.2.1", "2001:db8::1"]}


def build(mesh, domain=DOMAIN):
    mesh.client = mesh.nodes[0].pod("client")
    mesh.web = mesh.nodes[1].pod("web")
    mesh.names = mesh.nodes[1].pod("names", captured=False)
    mesh.members = [mesh.nodes[1].pod(name, account="db") for name in ("db-0", "db-1")]
    for name, vips, ports, pods in (("web", [f"/{VIP}", f"/{VIP6}"], {"80": 8080}, [mesh.web]), ("db", [], {"5432": 6432}, mesh.members)):
        mesh.services.append(({"hostname": f"{name}.shop.svc.{domain}", "name": name, "namespace": "shop", "vips": vips, "ports": ports}, pods))
    return mesh


def dig(pod, server, *words):
    return pod.netns.run("dig", f"@{server}", "+time=5", "+tries=1", *words).strip()


def with_resolv_conf(pod, folder, server, *command, domain=DOMAIN):
    """The addresses that a program of the pod prints, with a resolv.conf as kubelet writes it."""
    path = folder / "resolv.conf"
    path.write_text(f"nameserver {server}\nsearch shop.svc.{domain} svc.{domain} {domain}\noptions ndots:5\n")
    words = " ".join(command)
    text = pod.netns.run("unshare", "-m", "sh", "-c", f"mount --bind {path} /etc/resolv.conf && {words}", check=False)
    return {line.split()[0] for line in text.splitlines() if line[0].isdigit() or line.startswith(("fd00", "2001"))}
