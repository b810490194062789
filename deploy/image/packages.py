"""Debian packages as the machine that builds has them: which one a file is from, its version and its terms."""

import functools
import pathlib
import subprocess
import typing


class Package(typing.NamedTuple):
    name: str
    version: str
    source: str          # the source package, and its version
    source_version: str
    architecture: str
    maintainer: str
    status: str          # its stanza in dpkg's own format

    @property
    def purl(self):
        return f"pkg:deb/debian/{self.name}@{self.version.replace(':', '%3A').replace('+', '%2B')}?arch={self.architecture}"


def _run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).stdout


@functools.lru_cache(None)
def _owners():
    """{file: package} of all that is installed, read once: asking dpkg file by file takes minutes."""
    owners = {}
    for listing in pathlib.Path("/var/lib/dpkg/info").glob("*.list"):
        for file in listing.read_text(errors="replace").splitlines():
            owners.setdefault(file, listing.name.removesuffix(".list"))
    return owners


def owner(path):
    """The name of the package that brought this file. With a merged /usr a package may still say /lib."""
    real = str(pathlib.Path(path).resolve())
    for candidate in (str(path), real, real.removeprefix("/usr")):
        if candidate in _owners():
            return _owners()[candidate]
    raise SystemExit(f"{path} is not from a Debian package: an image would hold something of unknown origin")


@functools.lru_cache(None)
def package(name):
    fields = ("Package", "Version", "source:Package", "source:Version", "Architecture", "Maintainer")
    values = _run("dpkg-query", "-W", "-f", "\\n".join(f"${{{field}}}" for field in fields), name).split("\n")
    return Package(*values, status=_run("dpkg-query", "-s", name))


def copyright_file(name):
    """Its terms, which go wherever its files go."""
    return pathlib.Path("/usr/share/doc") / name.split(":")[0] / "copyright"


def libraries(program):
    """The shared libraries that a program is run with, its loader too, as {path that the loader looks at: file}. None for a static one."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    text = listed.stdout + listed.stderr
    if "not a dynamic executable" in text or "statically linked" in text:
        return {}
    found = {}
    for line in text.splitlines():
        words = line.split()
        if "=>" in words and "not found" in line:
            raise SystemExit(f"{program} needs {words[0]}, which is not here")
        path = words[2] if "=>" in words else words[0] if words[:1] and words[0].startswith("/") else None
        if path:
            found[path] = pathlib.Path(path).resolve()
    if not found:
        raise SystemExit(f"ldd says nothing of {program}: {text.strip()}")
    return found
