import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from harness import netns  # noqa: E402
from harness.mesh import Mesh  # noqa: E402


def pytest_sessionstart(session):
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))  # so that namespaces are taken down
    if os.geteuid() == 0:
        netns.sweep_stale()


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="makes network namespaces, which needs root"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the programs of its mesh said."""
    report = (yield).get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Mesh):
                report.sections.append(("programs", value.logs()[-20000:]))


@pytest.fixture
def mesh():
    """Two nodes of its own for one test; the test adds pods and starts it."""
    with Mesh() as two_nodes:
        yield two_nodes


@pytest.fixture(autouse=True)
def _no_server_fails_silently(request):
    yield
    for value in getattr(request.node, "funcargs", {}).values():
        if isinstance(value, Mesh):
            errors = [e for pod in value.pods for s in pod.servers for e in s.errors]
            assert not errors, f"servers in pods failed: {errors}"
