#!/usr/bin/env python3
"""Checks that every test that tests/CHECKLIST.md names exists in the tests' sources.

The last column of a row, "layer: name, name; layer: name": the layer is a Catch2 program's (`zt_test(<layer> …)` in tests/CMakeLists.txt),
node/<file>, interop/<file> or fuzz; without a layer it is the one before. "…" stands for any text, at either end or within; a file
alone stands for all of its tests; what is in brackets is a remark; "row 12" or "rows 3 and 4" are rows of the same table.

Usage: checklist.py [ROOT]. Prints one line "file:line: what is wrong" a fault; the exit status is 1 if there is one."""
import pathlib
import re
import sys

STRING = r'"(?:[^"\\]|\\.)*"'


def catch2_names(root):
    """layer -> names of its TEST_CASEs, with a fixture or without."""
    names = {}
    for match in re.finditer(r"^zt_test\((\w+)([^)]*)\)", (root / "tests/CMakeLists.txt").read_text(), re.M):
        layer, words = match[1], match[2].split()
        folders = []
        if "FOLDERS" in words:
            for word in words[words.index("FOLDERS") + 1:]:
                if word.isupper():
                    break
                folders.append(word)
        names[layer] = set()
        for folder in folders or [layer]:
            for source in sorted((root / "tests" / folder).glob("*_test.cc")):
                for case in re.finditer(rf"^TEST_CASE(?:_METHOD\(\w+,|\()\s*({STRING}(?:\s*{STRING})*)", source.read_text(), re.M):
                    name = "".join(s[1:-1] for s in re.findall(STRING, case[1]))
                    names[layer].add(name.replace('\\"', '"').replace("\\\\", "\\"))
    return names


def pytest_names(root):
    """node/test_x -> names of its tests without "test_"."""
    names = {}
    for folder in ("node", "interop"):
        for source in sorted((root / "tests" / folder).glob("test_*.py")):
            names[f"{folder}/{source.stem}"] = set(re.findall(r"^def test_(\w+)", source.read_text(), re.M))
    return names


def fits(cited, names):
    pattern = ".*".join(re.escape(part.strip()) for part in cited.split("…"))
    return any(re.fullmatch(pattern, name) for name in names)


def missing(pieces, names):
    """The pieces were parted at commas, which names have too. Returns the first piece that begins no name, or None."""
    begin = 0
    while begin < len(pieces):
        for end in range(len(pieces), begin, -1):  # the longest name first
            if fits(", ".join(pieces[begin:end]), names):
                begin = end
                break
        else:
            return pieces[begin]
    return None


def check_cell(cell, names, rows):
    cell = re.sub(r"\s*(\([^()]*\)|\[[^\[\]]*\])", "", cell)
    layer = None
    for part in (p.strip() for p in cell.split(";")):
        if not part:
            continue
        row = re.fullmatch(r"rows? (\d+)(?:(?:,| and| to) (\d+))*", part)
        if row:
            yield from (f"there is no row {n}" for n in re.findall(r"\d+", part) if int(n) not in rows)
            continue
        match = re.match(r"([\w/]+)(?:: |$)", part)
        if match and match[1] in names:
            layer, part = match[1], part[match.end():]
            if not part:
                continue
        elif match and "/" in match[1]:
            yield f"there is no {match[1]}"
            continue
        if layer is None:
            yield f'"{part}" names no layer of tests'
            continue
        wrong = missing(part.split(", "), names[layer])
        if wrong is not None:
            yield f'{layer} has no test "{wrong}"'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
    names = catch2_names(root) | pytest_names(root)
    names["fuzz"] = {f.stem.removesuffix("_fuzz") for f in (root / "tests/fuzz").glob("*_fuzz.cc")}
    lines = (root / "tests/CHECKLIST.md").read_text().splitlines()
    rows = set()
    for line in lines:
        number = re.match(r"\| (\d+)(?:–(\d+))? \|", line)
        if number:
            rows |= set(range(int(number[1]), int(number[2] or number[1]) + 1))
    faults, cited = [], 0
    for number, line in enumerate(lines, 1):
        heading = number < len(lines) and lines[number].startswith("|--")
        if not line.startswith("| ") or heading:
            continue
        cited += 1
        faults += [f"tests/CHECKLIST.md:{number}: {f}" for f in check_cell(line.strip("| ").split(" | ")[-1], names, rows)]
    print("\n".join(faults) or f"{cited} rows name tests that exist")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
