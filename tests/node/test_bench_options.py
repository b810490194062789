"""What the benches are asked for that cannot be measured is refused, by the option's name, before anything is made."""

import importlib.util
import os
import sys

import pytest

from harness.mesh import BIN

BENCH = os.path.join(os.path.dirname(__file__), "../../bench")


@pytest.fixture(scope="module")
def upgrade():
    spec = importlib.util.spec_from_file_location("upgrade", os.path.join(BENCH, "upgrade.py"))
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.mark.parametrize("words, said", [
    (["--tunnels", "7"], "--tunnels 7: a multiple of 5"),
    (["--tunnels", "0"], "--tunnels 0: at least 5"),
    (["--busy", "3"], "--busy 3: a multiple of 5"),
    (["--busy", "-5"], "--busy -5: at least 0"),
    (["--connections", "0"], "--connections 0: at least 1"),
    (["--connections", "1001"], "--connections 1001: a multiple of --tunnels, 50"),
    (["--connections", "50", "--busy", "100"], "--busy 100: more than there are connections"),
    (["--connections", "20000"], "--connections 20000: more than 200 for each of 50 tunnels"),
    (["--upgrades", "0"], "--upgrades 0: at least 1"),
    (["--new", "-1"], "--new -1: at least 1"),
    (["--new", "many"], "argument --new: invalid int value"),
    (["--side", "both"], "argument --side: invalid choice"),
    (["--bin", "/nowhere"], "--bin /nowhere: has no program ztunnel"),
    (["--bin", BIN, "--json", "/nowhere/result.json"], "--json /nowhere/result.json: there is no such folder"),
])
def test_an_upgrade_that_cannot_be_measured_is_refused_by_the_option_s_name(upgrade, monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", ["upgrade.py", *words])
    with pytest.raises(SystemExit) as ended:
        upgrade.main()
    assert ended.value.code == 2 and f"error: {said}" in capsys.readouterr().err
