#!/usr/bin/env python3
"""Checks that what is cited leads somewhere: each path and each link in the documents to a file.

Usage: documents.py [ROOT]. Prints one line "file:line: what is wrong" a fault; the exit status is 1 if there is one."""
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
            if cited.startswith(("build/", "corpus/")):
                continue
            if not any(list(base.glob(cited)) for base in (root, (root / document).parent)):
                yield f"{document}:{number}: there is no {cited}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
    documents = [d for d in tracked(root, "*.md") if d.name != "CHANGELOG.md"]
    faults = [f for d in documents for f in check_paths(root, d)]
    print("\n".join(faults) or f"what {len(documents)} documents cite exists")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
