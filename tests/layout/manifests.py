#!/usr/bin/env python3
"""Do the manifests of deploy/ fit together, and to the programs? Each mount has its volume and each volume its mount, selectors match labels, roles and accounts
that are named exist, overlays name folders, and each environment variable is one that the program knows.

    manifests.py [ROOT]
"""

import pathlib
import re
import sys

import yaml


def fail_if(problems, condition, where, text):
    if condition:
        problems.append(f"{where}: {text}")


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def known_settings(root):
    """Names in the sources of the programs: whoever reads a variable spells it out."""
    text = "\n".join(p.read_text() for folder in ("agent", "ztunnel", "kubernetes", "cni", "identity", "workload_api") for p in (root / folder).rglob("*.cc"))
    text += "\n".join(p.read_text() for p in (root / "ztunnel").rglob("*.h"))
    return set(re.findall(r'"([A-Z][A-Z0-9_]+)"', text))


def check_workload(problems, where, kind, known):
    spec = kind["spec"]["template"]["spec"]
    labels = kind["spec"]["template"]["metadata"]["labels"]
    for key, value in kind["spec"]["selector"]["matchLabels"].items():
        fail_if(problems, labels.get(key) != value, where, f"the pods do not have the selector's label {key}={value}")
    fail_if(problems, labels.get("istio.io/dataplane-mode") != "none", where, "the mesh's own pods must say istio.io/dataplane-mode=none")
    volumes = {v["name"] for v in spec["volumes"]}
    mounts = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
    fail_if(problems, volumes != mounts, where, f"volumes without mount or mounts without volume: {sorted(volumes ^ mounts)}")
    for container in spec["containers"]:
        security = container["securityContext"]
        fail_if(problems, security["capabilities"]["drop"] != ["ALL"], where, "capabilities are dropped first")
        fail_if(problems, security["privileged"] or not security["readOnlyRootFilesystem"], where, "privileged, or a root that can be written")
        fail_if(problems, "readinessProbe" not in container, where, "no readiness probe")
        for variable in container["env"]:
            name = variable["name"]
            fail_if(problems, name not in known and not name.startswith("ISTIO_META_"), where, f"no program knows {name}")


def check(root):
    problems, base = [], root / "deploy/daemonset"
    known = known_settings(root)
    accounts, roles, used_accounts = set(), set(), set()
    for path in sorted(base.rglob("*.yaml")):
        where = path.relative_to(root)
        for kind in documents(path):
            if kind["kind"] == "Kustomization":
                for resource in kind["resources"]:
                    fail_if(problems, not (path.parent / resource).exists(), where, f"{resource} is not there")
            elif kind["kind"] == "DaemonSet":
                check_workload(problems, where, kind, known)
                used_accounts.add(kind["spec"]["template"]["spec"]["serviceAccountName"])
            elif kind["kind"] == "ServiceAccount":
                accounts.add(kind["metadata"]["name"])
            elif kind["kind"] == "ClusterRole":
                roles.add(kind["metadata"]["name"])
            elif kind["kind"] == "ClusterRoleBinding":
                fail_if(problems, kind["roleRef"]["name"] not in roles, where, f"no role {kind['roleRef']['name']}")
                used_accounts.update(s["name"] for s in kind["subjects"])
    fail_if(problems, not used_accounts <= accounts, base.relative_to(root), f"accounts that nobody makes: {sorted(used_accounts - accounts)}")
    fail_if(problems, not accounts, base.relative_to(root), "there are no manifests")
    return problems


if __name__ == "__main__":
    found = check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]))
    print("\n".join(found) or "the manifests fit together")
    sys.exit(1 if found else 0)
