#!/usr/bin/env python3
"""Looks into the Debian packages of `./dev deb`: programs that run, units that start what is there, terms, a bill of materials, dependencies.

Usage: debs.py FILE.deb… Prints one line "package: what is wrong" a fault; the exit status is 1 if there is one."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

PROGRAMS = {"ztunnel": [("usr/bin/ztunnel", "version", "version"), ("usr/bin/ztunnelctl", "version", "ztunnelctl")],
            "ztunnel-agent": [("usr/bin/ztunnel-agent", "--version", "0."), ("usr/lib/cni/ztunnel-cni", None, "cniVersion")]}


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


def faults(path):
    fields = dict(line.split(": ", 1) for line in run("dpkg-deb", "-f", path).stdout.splitlines() if ": " in line and line[0] != " ")
    name = fields["Package"]
    for needed in ("libc6", "libssl3", "libstdc++6"):
        if needed not in fields.get("Depends", ""):
            yield f"does not depend on {needed}"
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        run("dpkg-deb", "-x", path, root, check=True)
        for program, word, said in PROGRAMS[name]:
            if not (root / program).exists():
                yield f"has no {program}"
                continue
            done = run(root / program, *([word] if word else []), env={"PATH": "/usr/bin", "CNI_COMMAND": "VERSION"}, input='{"cniVersion":"1.0.0"}')
            if said not in done.stdout:
                yield f"{program} {word or ''} says {done.stdout!r} {done.stderr!r}"
            if ".symtab" in run("readelf", "-SW", root / program).stdout:
                yield f"{program} is not stripped"
        if name == "ztunnel":
            for file in ("man/man1/ztunnelctl.1", "bash-completion/completions/ztunnelctl", "zsh/vendor-completions/_ztunnelctl",
                         "fish/vendor_completions.d/ztunnelctl.fish"):
                if not (root / "usr/share" / file).exists():
                    yield f"has no usr/share/{file}"
        units = list(root.glob("usr/lib/systemd/system/*.service"))
        for unit in units:
            started = re.search(r"^ExecStart=/(\S+)", unit.read_text(), re.M)[1]
            if started == "var/lib/ztunnel/running":
                continue  # put there by the unit that it bridges
            if not (root / started).exists():
                yield f"{unit.name} starts {started}, which is not in the package"
        if not units:
            yield "has no unit"
        documents = root / "usr/share/doc" / name
        if "Apache License" not in (documents / "copyright").read_text():
            yield "has no terms"
        bill = json.loads((documents / "sbom.spdx.json").read_text())
        named = {package["name"] for package in bill["packages"]}
        lost = {need.split()[0] for need in fields["Depends"].split(", ")} - named
        if lost:
            yield f"depends on what its bill of materials does not name: {sorted(lost)}"


if __name__ == "__main__":
    wrong = [f"{pathlib.Path(path).name}: {fault}" for path in sys.argv[1:] for fault in faults(path)]
    print("\n".join(wrong) or f"{len(sys.argv) - 1} packages are as they should be")
    sys.exit(1 if wrong or len(sys.argv) < 3 else 0)
