#!/usr/bin/env python3
"""Checks that what is cited leads somewhere: each "contract §4.1" in sources and documents to a heading of docs/contract.md or docs/hbone.md (which is
§2 of it), each "redirection contract §2.1" to one of docs/redirection.md, each path and each link in the documents to a file.

Usage: documents.py [ROOT]. Prints one line "file:line: what is wrong" a fault; the exit status is 1 if there is one."""
import glob
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from includes import tracked  # noqa: E402

# `folder/file.ext` or `folder/`, with * for any; one without a slash is found beside the document or in the root.
PATH = re.compile(r"`((?:[\w.*-]+/)+|(?:[\w.*-]+/)*[\w*-]+\.(?:h|cc|py|md|sh|txt|proto|json))`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")


def check_paths(root, document):
    for number, line in enumerate((root / document).read_text().splitlines(), 1):
        for cited in PATH.findall(line) + LINK.findall(line):
            if cited.startswith(("build/", "corpus/", "./")):
                continue
            if not any(glob.glob(str(base / cited)) for base in (root, (root / document).parent)):
                yield f"{document}:{number}: there is no {cited}"


# Whose section it is stands before it, or before the list that it is in: "RFC 8446 §4.6", "redirection contract §3.1, §3.2". Without: the contract.
OTHERS = re.compile(r"(?:RFC \d+|SPIFFE-ID|SP 800-38D|FIPS \d+|DESIGN)$", re.I)
REDIRECTION = re.compile(r"redirection contract$", re.I)
MARK = re.compile(r"§(\d+(?:\.\d+)?)(?:\.\d+)*(?:[-–]§?(\d+(?:\.\d+)?))?(?:,? #(\d+)(?:(?:, | and )#(\d+))*)?")


def headings(path):
    """The sections of a document, and of each the numbers of its list."""
    found, current = {}, None
    for line in path.read_text().splitlines():
        heading = re.match(r"#+ §(\d+(?:\.\d+)?)\b", line)
        item = re.match(r"(\d+)\. ", line)
        if heading:
            current = found.setdefault(heading[1], set())
        elif item and current is not None:
            current.add(int(item[1]))
    return found


def owner_of(text, start, default):
    """Which document the section that begins at `start` is of: "contract", "redirection" or "other"."""
    before = text[max(0, start - 200):start]
    while True:
        trimmed = re.sub(r"(?:[\s,–(-]|//|#|\*|\bto|\band)+$", "", before)
        earlier = re.search(r"§[\d.]+(?:[-–]§?[\d.]+)?(?: #\d+)?$", trimmed)
        if earlier:
            before = trimmed[:earlier.start()]
            continue
        trimmed = re.sub(r"[\s/#*]+", " ", trimmed)
        if OTHERS.search(trimmed):
            return "other"
        if REDIRECTION.search(trimmed):
            return "redirection"
        return "contract" if re.search(r"contract('s)?$", trimmed, re.I) else default


def check_sections(root):
    documents = {"contract": headings(root / "docs/contract.md") | headings(root / "docs/hbone.md"),
                 "redirection": headings(root / "docs/redirection.md")}
    where = {"contract": "docs/contract.md and docs/hbone.md", "redirection": "docs/redirection.md"}
    for path in tracked(root, "*.h", "*.cc", "*.py", "*.sh", "*.proto", "*.txt", "*.md", "dev"):
        if path.parts[:2] == ("tests", "layout"):
            continue
        text = (root / path).read_text()
        default = "redirection" if path.name == "redirection.md" else "contract"
        for match in MARK.finditer(text):
            owner = owner_of(text, match.start(), default)
            number = text.count("\n", 0, match.start()) + 1
            if owner == "other":
                continue
            if re.search(r"\b[ZR] $", text[:match.start()]):
                yield f"{path}:{number}: say whose {match[0]} it is: of the contract, or of the redirection contract"
            sections = documents[owner]
            for section in filter(None, (match[1], match[2])):
                if section not in sections:
                    yield f"{path}:{number}: no heading §{section} in {where[owner]}"
            if match[3] and match[1] in sections:
                items = set().union(*(v for k, v in sections.items() if k == match[1] or k.startswith(match[1] + ".")))
                for item in re.findall(r"#(\d+)", match[0]):
                    if int(item) not in items:
                        yield f"{path}:{number}: no item {item} in §{match[1]} of {where[owner]}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
    documents = [d for d in tracked(root, "*.md") if d.name != "CHANGELOG.md"]
    faults = [f for d in documents for f in check_paths(root, d)] + list(check_sections(root))
    print("\n".join(faults) or "what is cited exists")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
