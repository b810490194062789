#!/usr/bin/env python3
"""Do the manifests of deploy/ fit together, and to the programs? Each mount has its volume and each volume its mount, selectors match labels, roles and accounts
that are named exist, overlays and components name what is there, the charts' templates and values name the same keys (Istio's among them) and ask for the
capabilities of the manifests, and each environment variable, in systemd's units too, is one that the program knows.

    manifests.py [ROOT]
"""

import json
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
        fail_if(problems, security["seccompProfile"]["type"] != "RuntimeDefault" or spec["priorityClassName"] != "system-node-critical", where,
                "without seccomp profile or priority class")
        for variable in container["env"]:
            name = variable["name"]
            fail_if(problems, name not in known and not name.startswith("ISTIO_META_"), where, f"no program knows {name}")


# The keys of Istio's charts (August 2026): a values file for theirs has to mean the same to ours.
ISTIO_ZTUNNEL = """hub tag variant image network global resourceName labels annotations volumeMounts volumes tolerations podAnnotations podLabels resources resourceQuotas
peerCaCrl imagePullSecrets env imagePullPolicy multiCluster meshConfig terminationGracePeriodSeconds revision caAddress xdsAddress istioNamespace logLevel logAsJson
seLinuxOptions updateStrategy dnsPolicy dnsConfig""".split()
ISTIO_CNI = """hub tag variant image pullPolicy logging cniBinDir cniConfDir cniConfFileName cniNetnsDir excludeNamespaces affinity podAnnotations podLabels ambient seccompProfile
seLinuxOptions resources resourceQuotas tolerations updateStrategy terminationGracePeriodSeconds env global""".split()
CAPABILITY = re.compile(r"^ +- ([A-Z_]+) +#", re.M)


def keys_of(values, prefix=""):
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def check_chart(problems, root, name, istio, manifest, known):
    chart = root / "deploy/charts" / name
    where = chart.relative_to(root)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    text = "".join(path.read_text() for path in sorted((chart / "templates").iterdir()))
    used = set(re.findall(r"\.Values\.([\w.]+)", re.sub(r"\(\.Values\.([\w.]+)\)\.", r".Values.\1.", text)))
    there = set(keys_of(values))
    # What a user may add below a key (limits of resources) the values do not have.
    fail_if(problems, lost := sorted(u for u in used if u not in there and u.rpartition(".")[0].partition(".")[0] != "resources"), where, f"no value {lost}")
    fail_if(problems, idle := sorted(k for k in values if not any(u.split(".")[0] == k for u in used)), where, f"values that no template uses: {idle}")
    fail_if(problems, lost := sorted(set(istio) - set(values)), where, f"keys of Istio's chart that are not here: {lost}")
    wanted = CAPABILITY.findall((root / "deploy/daemonset" / manifest).read_text())
    fail_if(problems, CAPABILITY.findall(text) != wanted, where, f"other capabilities than {manifest}: {wanted}")
    for variable in re.findall(r"- \{name: ([A-Z][A-Z0-9_]+), value", text):
        fail_if(problems, variable not in known and not variable.startswith("ISTIO_META_"), where, f"no program knows {variable}")


def check_component(problems, where, kind, sets):
    for patch in kind.get("patches", []):
        target = sets.get(patch["target"]["name"])
        fail_if(problems, target is None, where, f"patches {patch['target']['name']}, which is not there")
        change = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"] if target else {}
        for part in ("containers", "volumes"):
            there = {thing["name"] for thing in target["spec"]["template"]["spec"][part]} if target else set()
            fail_if(problems, not {thing["name"] for thing in change.get(part, [])} <= there, where, f"patches {part} that are not there")


def check_bridge(problems, root, path):
    """What has the connections while a unit is restarted is that unit, but for what starts and ends it."""
    def what_counts(unit):
        lines = unit.read_text().partition("[Install]")[0].splitlines()
        return [line for line in lines if line and not re.match("#|Description|Documentation|Wants|After|Exec|Restart", line)]

    main, where, text = path.with_name(path.name.replace("-bridge", "")), path.relative_to(root), path.read_text()
    fail_if(problems, what_counts(path) != what_counts(main), where, f"is not as {main.name}")
    program = re.search(r"^ExecStart=(/var/lib/ztunnel/\S+) proxy$", text, re.M)
    fail_if(problems, not program or f"/proc/${{MAINPID}}/exe {program[1]}" not in main.read_text(), where, f"does not start what {main.name} leaves it")
    fail_if(problems, main.read_text().count(path.name) != 3, main.relative_to(root), f"does not start and stop {path.name}")


def check_unit(problems, root, path, known):
    where, text = path.relative_to(root), path.read_text()
    if "-bridge" in path.name:
        return check_bridge(problems, root, path)
    programs = re.findall(r"^ExecStart=/usr/bin/(\S+)", text, re.M)
    fail_if(problems, programs not in (["ztunnel"], ["ztunnel-agent"]), where, f"starts {programs}")
    files = [path, *(path.parent / name for name in re.findall(r"^EnvironmentFile=/etc/ztunnel/(\S+)", text, re.M))]
    for file in files:
        for variable in re.findall(r"^(?:Environment=|#)?([A-Z][A-Z0-9_]+)=", file.read_text(), re.M):
            fail_if(problems, variable not in known, file.relative_to(root), f"no program knows {variable}")
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=CAP_"):
        fail_if(problems, line not in text, where, f"lacks {line}")


def check_seccomp(problems, root, path):
    profile, where = json.loads(path.read_text()), path.relative_to(root)
    allowed = {name for rule in profile["syscalls"] for name in rule["names"]}
    fail_if(problems, profile["defaultAction"] != "SCMP_ACT_ERRNO", where, "what is not named has to fail")
    forbidden = {"mount", "umount2", "pivot_root", "ptrace", "init_module", "finit_module", "kexec_load", "keyctl", "add_key", "reboot", "swapon", "open_by_handle_at"}
    fail_if(problems, allowed & forbidden, where, f"allows {sorted(allowed & forbidden)}")
    fail_if(problems, not {"setns", "execve", "exit_group", "openat", "splice"} <= allowed, where, "lacks what every one of the programs calls")


def check(root):
    problems, base = [], root / "deploy/daemonset"
    known = known_settings(root)
    accounts, roles, used_accounts = set(), set(), set()
    sets = {kind["metadata"]["name"]: kind for path in base.rglob("*.yaml") for kind in documents(path) if kind["kind"] == "DaemonSet"}
    check_chart(problems, root, "ztunnel", ISTIO_ZTUNNEL, "proxy/daemonset.yaml", known)
    check_chart(problems, root, "ztunnel-agent", ISTIO_CNI, "agent/daemonset.yaml", known)
    for path in sorted((root / "deploy/systemd").glob("*.service")):
        check_unit(problems, root, path, known)
    for path in sorted((root / "deploy/seccomp").glob("*.json")):
        check_seccomp(problems, root, path)
    for path in sorted(base.rglob("*.yaml")):
        where = path.relative_to(root)
        for kind in documents(path):
            if kind["kind"] in ("Kustomization", "Component"):
                for resource in kind.get("resources", []):
                    fail_if(problems, not (path.parent / resource).exists(), where, f"{resource} is not there")
                check_component(problems, where, kind, sets)
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
