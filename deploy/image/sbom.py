#!/usr/bin/env python3
"""What an image or a package is made of, as SPDX 2.3 in JSON: our programs, the Debian packages whose libraries they are linked with, and the
Debian packages that were compiled into them (headers, static libraries).

    sbom.py BUILD PROGRAM…: of programs in BUILD/bin, into BUILD/sbom.spdx.json
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys

import packages
import release

NONE = "NOASSERTION"


def compiled_in(build, programs):
    """The packages of every file outside of the tree that the compiler or the linker read for these programs. Ninja knows them."""
    def ninja(*words):
        return subprocess.run(["ninja", "-C", str(build), *words], check=True, capture_output=True, text=True).stdout

    objects, libraries, files = set(), set(), set()
    for line in ninja("-t", "commands", *programs).splitlines():
        objects.update(re.findall(r" -o (\S+\.o)\b", line))
        libraries.update(re.findall(r"(/usr/\S+\.a)\b", line))
    current = None
    for line in ninja("-t", "deps").splitlines():
        if line and not line[0].isspace():
            current = line.partition(":")[0]
        elif current in objects and line.strip().startswith("/usr/"):
            files.add(line.strip())
    # A folder of headers is of one package, more or less: a thousand questions to dpkg instead of ten thousand.
    folders = {}
    for file in sorted(files):
        folders.setdefault(file.rpartition("/")[0], file)
    return {packages.owner(file) for file in [*folders.values(), *sorted(libraries)]}


def _identifier(name):
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", name)


def document(name, version, created, programs, linked, compiled):
    """`programs`: {name: bytes}; `linked`, `compiled`: names of Debian packages."""
    def entry(package):
        found = packages.package(package)
        return {
            "SPDXID": _identifier(f"deb-{found.name}"), "name": found.name, "versionInfo": found.version, "supplier": f"Organization: {found.maintainer}",
            "sourceInfo": f"built from Debian's source package {found.source} {found.source_version}", "downloadLocation": NONE, "filesAnalyzed": False,
            "licenseConcluded": NONE, "licenseDeclared": NONE, "copyrightText": NONE,
            "licenseComments": f"as /usr/share/doc/{found.name}/copyright says",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": found.purl}]}

    own = {"SPDXID": _identifier(name), "name": name, "versionInfo": version, "supplier": NONE, "downloadLocation": NONE, "filesAnalyzed": False,
           "licenseConcluded": "Apache-2.0", "licenseDeclared": "Apache-2.0", "copyrightText": NONE, "primaryPackagePurpose": "APPLICATION"}
    files = [{"SPDXID": _identifier(f"file-{program}"), "fileName": f"./usr/local/bin/{program}", "fileTypes": ["BINARY"],
              "checksums": [{"algorithm": kind, "checksumValue": hashlib.new(kind.lower(), data).hexdigest()} for kind in ("SHA1", "SHA256")],
              "licenseConcluded": "Apache-2.0", "licenseInfoInFiles": [NONE], "copyrightText": NONE} for program, data in sorted(programs.items())]

    def relation(left, kind, right):
        return {"spdxElementId": left, "relationshipType": kind, "relatedSpdxElement": right}
    relations = [relation("SPDXRef-DOCUMENT", "DESCRIBES", own["SPDXID"])]
    relations += [relation(own["SPDXID"], "CONTAINS", file["SPDXID"]) for file in files]
    relations += [relation(own["SPDXID"], "DYNAMIC_LINK", _identifier(f"deb-{packages.package(p).name}")) for p in sorted(linked)]
    relations += [relation(own["SPDXID"], "STATIC_LINK", _identifier(f"deb-{packages.package(p).name}")) for p in sorted(compiled)]
    everything = sorted(set(linked) | set(compiled))
    digest = hashlib.sha256("".join(packages.package(p).purl for p in everything).encode() + b"".join(programs[p] for p in sorted(programs))).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"{name}-{version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{version}-{digest[:32]}",
        "creationInfo": {"created": created, "creators": ["Tool: deploy/image/sbom.py"]},
        "packages": [own, *(entry(p) for p in everything)], "files": files, "relationships": relations}


def main(build, *programs):
    linked = {packages.owner(str(file)) for program in programs for file in packages.libraries(build / "bin" / program).values()}
    bill = document("ztunnel", release.version(), release.created(), {}, linked, compiled_in(build, programs))
    (build / "sbom.spdx.json").write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
