"""What docs/README.md and docs/ztunnelctl.md tell people to type does what they say, on the mesh of the demo."""

import os
import pathlib
import re
import subprocess

import pytest

from harness import mesh as meshes
from harness.apps import refused
from harness.process import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:^<!-- (.*?) -->\n)?^```sh\n(.*?)^```$", re.M | re.S)


def blocks(document):
    """(mark, lines) of each block of commands."""
    return [(mark, text.strip().splitlines()) for mark, text in BLOCK.findall((ROOT / document).read_text())]


@pytest.fixture
def demo(mesh):
    """Names, addresses, policies and service of demo/mesh.yaml."""
    first, second = mesh.nodes
    mesh.checkout, mesh.visitor = first.pod("checkout"), first.pod("visitor")
    mesh.payments = second.pod("payments", namespace="pay")
    second.pod("catalog")
    mesh.payments.serve(8080)
    mesh.service("payments", "10.96.0.80", 80, 8080, [mesh.payments], namespace="pay")
    mesh.policy("payments-callers", [[[{"serviceAccounts": [{"namespace": "shop", "serviceAccount": "checkout"}]}]]], namespace="pay")
    return mesh.start()


def test_every_command_of_the_documents_works_or_says_why_it_is_not_tested(demo, tmp_path):
    node = demo.nodes[1]
    assert refused(demo.visitor, "10.96.0.80", 80)
    # Whether the agent is there is told by a metric, which is written anew each few seconds.
    check = [*node.netns.prefix(), meshes.program("ztunnelctl"), "check"]
    eventually(lambda: subprocess.run(check, capture_output=True).returncode == 0, "nothing to be wrong", step=0.3)
    ran = 0
    for document in ("docs/README.md", "docs/ztunnelctl.md"):
        for mark, lines in blocks(document):
            assert mark and re.match(r"tested|not tested", mark), f"{document}: a block of commands without a mark: {lines}"
            if mark.startswith("not tested"):
                continue
            for line in lines:
                line = line.replace("/tmp/", f"{tmp_path}/")
                environment = {**os.environ, "PATH": f"{os.path.realpath(meshes.BIN)}:{os.environ['PATH']}"}
                done = subprocess.run([*node.netns.prefix(), "bash", "-c", line], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60)
                assert done.returncode == 0, f"{document}: {line}: {done.returncode}\n{done.stdout}{done.stderr}"
                if says := re.search(r"says: (.*)", mark):
                    assert says.group(1) in done.stdout, f"{document}: {line} does not say {says.group(1)}:\n{done.stdout}"
                ran += 1
    assert ran > 20
