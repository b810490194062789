"""Which release this tree is, and from when."""

import datetime
import os
import pathlib
import re
import subprocess

TREE = pathlib.Path(__file__).resolve().parents[2]


def time():
    """One time for all that is made: SOURCE_DATE_EPOCH, or that of the commit."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    command = ["git", "-c", f"safe.directory={TREE}", "-C", TREE, "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def created():
    return datetime.datetime.fromtimestamp(time(), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def version():
    return re.search(r"project\(ztunnel VERSION (\S+)", (TREE / "CMakeLists.txt").read_text())[1]
