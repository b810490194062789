#!/usr/bin/env python3
"""Makes the image: the three programs, stripped, the libraries that they are linked with, what the iptables backend runs, and nothing else. No shell,
no package manager. Everything that is not ours is from the Debian packages of this machine, so the image is that of the Debian it is made on.

    image.py [--bin build/release/bin] [--out build/image] [--name localhost/ztunnel:latest]

Leaves in --out: ztunnel.tar (OCI archive), sbom.spdx.json, debug/ (symbols by build id, for gdb's debug-file-directory), rootfs/.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import oci  # noqa: E402
import packages  # noqa: E402
import release  # noqa: E402
import sbom  # noqa: E402

TREE = release.TREE
PROGRAMS = ("ztunnel", "ztunnel-agent", "ztunnel-cni")
# What the backend iptables runs: both variants, since the node's kernel decides which one counts.
XTABLES = ("xtables-nft-multi", "xtables-legacy-multi")
# What listens: 15020 metrics, 15021 probes; in pods 15001, 15006, 15008, 15053.
PORTS = ("15020/tcp", "15021/tcp")


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


class Root:
    """The image's files as they come together, and the Debian packages that they are from."""

    def __init__(self, folder):
        self.folder, self.packages = folder, set()

    def place(self, source, target, mode=None):
        path = self.folder / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        path.chmod(mode or (source.stat().st_mode & 0o777))
        return path

    def text(self, target, text):
        path = self.folder / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)

    def debian(self, source, target):
        self.packages.add(packages.owner(str(source)))
        self.place(pathlib.Path(source).resolve(), target)

    def libraries_of(self, program):
        for path, file in packages.libraries(program).items():
            self.debian(file, path)


def add_programs(root, binaries, debug):
    """Stripped; their symbols go where gdb looks for them by build id."""
    for name in PROGRAMS:
        source = binaries / name
        if not source.exists():
            raise SystemExit(f"{source} is missing: ./dev image builds it")
        target = root.place(source, f"/usr/local/bin/{name}", 0o755)
        found = re.search(r"Build ID: ([0-9a-f]+)", run("readelf", "-n", source))
        if found:
            symbols = debug / ".build-id" / found[1][:2] / (found[1][2:] + ".debug")
            symbols.parent.mkdir(parents=True, exist_ok=True)
            run("objcopy", "--only-keep-debug", source, symbols)
        run("strip", "--strip-all", target)
        root.libraries_of(source)


def add_iptables(root):
    folder = next(pathlib.Path("/usr/lib").glob("*/xtables"), None)
    if folder is None or not all(pathlib.Path("/usr/sbin", name).exists() for name in XTABLES):
        raise SystemExit("iptables is missing: ./dev packages installs it")
    for name in XTABLES:
        root.debian(pathlib.Path("/usr/sbin") / name, f"/usr/sbin/{name}")
        root.libraries_of(pathlib.Path("/usr/sbin") / name)
        variant = name.split("-")[1]
        for family in ("iptables", "ip6tables"):
            for what in ("", "-save", "-restore"):
                (root.folder / f"usr/sbin/{family}-{variant}{what}").symlink_to(name)
    for module in sorted(folder.glob("*.so")):
        if not module.name.startswith(("libarpt_", "libebt_")):
            root.debian(module, str(module))


def add_system(root, folders=("run", "tmp", "var/run/ztunnel", "var/run/istio-cni")):
    root.text("/etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
    root.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    root.debian("/usr/lib/os-release", "/usr/lib/os-release")
    (root.folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    for folder in folders:
        (root.folder / folder).mkdir(parents=True, exist_ok=True)
    (root.folder / "tmp").chmod(0o1777)


def add_terms(root):
    """For people the terms of every package, for scanners the packages' names and versions."""
    for name in sorted(root.packages):
        found = packages.package(name)
        source = packages.copyright_file(name)
        if not source.exists():
            raise SystemExit(f"{source} is missing: what the image holds of {name} may not be given away without it")
        root.text(f"/usr/share/doc/{found.name}/copyright", source.resolve().read_text(errors="replace"))
        root.text(f"/var/lib/dpkg/status.d/{found.name}", found.status)
    root.text("/usr/share/doc/ztunnel/LICENSE", (TREE / "LICENSE").read_text())


def size_of(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def make(binaries, out, name):
    shutil.rmtree(out, ignore_errors=True)
    system, programs, debug = out / "rootfs/system", out / "rootfs/programs", out / "debug"
    for folder in (system, programs, debug):
        folder.mkdir(parents=True)
    ours, debians = Root(programs), Root(system)
    add_programs(ours, binaries, debug)
    # Two layers: what is Debian's changes less often than what is ours.
    for path in sorted(programs.iterdir()):
        if path.name != "usr":
            shutil.move(path, system / path.name)
    if (programs / "usr/lib").exists():
        (system / "usr").mkdir(exist_ok=True)
        shutil.move(programs / "usr/lib", system / "usr/lib")
    debians.packages |= ours.packages
    add_iptables(debians)
    add_system(debians)
    add_terms(debians)
    time, created, version = release.time(), release.created(), release.version()
    bill = sbom.document("ztunnel", version, created, {p: (programs / "usr/local/bin" / p).read_bytes() for p in PROGRAMS}, debians.packages,
                         sbom.compiled_in(binaries.parent, PROGRAMS))
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    (out / "sbom.spdx.json").write_text(text)
    Root(programs).text("/usr/share/doc/ztunnel/sbom.spdx.json", text)
    labels = {
        "org.opencontainers.image.title": "ztunnel", "org.opencontainers.image.version": version, "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": created, "org.opencontainers.image.description": "Node proxy, node agent and CNI plugin for Istio ambient mode"}
    layers = [oci.layer(folder, time) for folder in (system, programs)]
    digest = oci.write(out / "ztunnel.tar", name, layers, {
        "Entrypoint": ["/usr/local/bin/ztunnel"], "Cmd": ["proxy"], "WorkingDir": "/", "Labels": labels,
        "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin"], "ExposedPorts": {port: {} for port in PORTS}},
        created, run("dpkg", "--print-architecture").strip(), labels)
    unpacked, packed = size_of(out / "rootfs"), sum(len(data) for data, _ in layers)
    debian = re.search(r'PRETTY_NAME="(.*)"', (system / "usr/lib/os-release").read_text())[1]
    print(f"{out / 'ztunnel.tar'}: {name}, {digest}\n  from {debian}, {len(debians.packages)} packages; {packed / 2**20:.1f} MiB to pull, {unpacked / 2**20:.1f} MiB unpacked")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=TREE / "build/release/bin", help="the programs, with their symbols")
    parser.add_argument("--out", type=pathlib.Path, default=TREE / "build/image")
    parser.add_argument("--name", default="localhost/ztunnel:latest")
    arguments = parser.parse_args()
    make(arguments.bin, arguments.out, arguments.name)
