#!/usr/bin/env python3
"""Checks that the folders use each other only as tests/layout/includes.txt allows, by #include and by what CMake links; that
CMakeLists.txt and ARCHITECTURE.md show the same table; and that each .cc begins with its own header, so that the header stands alone.

Usage: includes.py [ROOT]. Prints one line "file:line: what is wrong" a fault; the exit status is 1 if there is one."""
import pathlib
import re
import subprocess
import sys

INCLUDE = re.compile(r'\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')


class Layout:
    """The table: the folders in order, what each may use, what each must not reach."""

    def __init__(self, path):
        self.folders, self.may, self.never, self.lines = [], {}, {}, {}
        self.faults = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.split("#", 1)[0].split()
            if not words:
                continue
            folder, kind = words[0][:-1], words[0][-1]
            if kind == "!":
                self.never[folder] = words[1:]
                continue
            for used in words[1:]:
                if used not in self.may:
                    self.faults.append(f"{path}:{number}: {folder} may only use folders that are named above it: {used} is not")
            self.folders.append(folder)
            self.may[folder] = set(words[1:])
            self.lines[folder] = number

    def home(self, path):
        """The folder of the table that a path belongs to: the longest that it begins with."""
        path = str(path)
        fits = [f for f in self.folders if path.startswith(f + "/")]
        return max(fits, key=len) if fits else None


def tracked(root, *patterns):
    listed = subprocess.run(["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
                            check=True, capture_output=True, text=True).stdout
    return sorted(pathlib.PurePath(p) for p in listed.splitlines() if (root / p).is_file())


def check_includes(root, layout):
    used = {f: set() for f in layout.folders}  # folder -> {(what it includes, where)}
    for path in tracked(root, "*.h", "*.cc", "*.c"):
        if path.parts[0] in ("tests", "demo"):
            continue
        folder = layout.home(path)
        if folder is None:
            yield f"{path}:1: no folder of tests/layout/includes.txt holds this file"
            continue
        first = None
        for number, line in enumerate((root / path).read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                code = line.split("//", 1)[0]
                for banned in layout.never.get(folder, ()):
                    if banned.endswith("(") and re.search(rf"(?<![\w]){re.escape(banned)}", code):
                        yield f"{path}:{number}: {folder}/ must not call {banned[:-1]} (tests/layout/includes.txt)"
                continue
            ours, system = match.groups()
            first = first or ours or f"<{system}>"
            if system:
                used[folder].add((f"<{system}>", f"{path}:{number}"))
                continue
            target = layout.home(ours)
            generated = ours.endswith(".pb.h") and (root / ours[:-5]).with_suffix(".proto").is_file()
            if target is None or not ((root / ours).is_file() or generated):
                yield f'{path}:{number}: "{ours}" is no header of a folder in tests/layout/includes.txt (paths are from the root)'
                continue
            if target != folder:
                used[folder].add((target, f"{path}:{number}"))
                if target not in layout.may[folder]:
                    yield f'{path}:{number}: {folder}/ may not include "{ours}" (tests/layout/includes.txt, line {layout.lines[folder]})'
        own = path.with_suffix(".h")
        if path.suffix == ".cc" and (root / own).is_file() and first != str(own):
            yield f'{path}:1: its first include must be "{own}", which proves that the header stands alone; it is {first}'
    yield from check_never(layout, used, "includes")


def check_never(layout, used, verb):
    """`used`: folder -> {(what, where)}. What a folder reaches through others counts as well."""
    for folder, banned in layout.never.items():
        seen, todo = set(), [(folder, "")]
        while todo:
            current, way = todo.pop()
            for what, where in sorted(used.get(current, ())):
                # System headers: only its own files are asked, since what it uses may wrap them.
                bad = [b for b in banned if (what == b if not b.startswith("<") else current == folder and what.startswith(b))]
                if bad:
                    yield f"{where}: {folder}/ must not reach {what}{way and ' (by way of ' + way + ')'}: {current}/ {verb} it"
                if not what.startswith("<") and what not in seen:
                    seen.add(what)
                    todo.append((what, f"{way}, {what}" if way else what))


def check_links(root, layout):
    """What the targets of one folder link must be of folders that it may use, directly or by way of them."""
    reach = {}
    for folder in layout.folders:
        reach[folder] = {folder} | layout.may[folder]
        for used in layout.may[folder]:
            reach[folder] |= reach[used]
    owner, edges = {}, []
    for path in tracked(root, "*CMakeLists.txt"):
        folder = layout.home(path)
        if folder is None or path.parts[0] in ("tests", "bench"):
            continue
        text = re.sub(r"#[^\n]*", "", (root / path).read_text())
        for match in re.finditer(r"\b(zt_library|zt_program|zt_protobuf|add_library|target_link_libraries)\s*\(([^)]*)\)", text):
            call, words = match[1], match[2].split()
            number = text.count("\n", 0, match.start()) + 1
            target = words[0]
            if call == "zt_library" or call == "zt_protobuf":
                target = "zt_" + target
            if call != "target_link_libraries":
                owner[target] = folder
            edges += [(folder, w, f"{path}:{number}") for w in words[1:] if w.startswith("zt_") and w != "zt_options"]
    used = {f: set() for f in layout.folders}
    for folder, target, where in edges:
        if target not in owner:
            yield f"{where}: {target} is no target of a folder in tests/layout/includes.txt"
            continue
        if owner[target] not in reach[folder]:
            yield f"{where}: {folder}/ may not link {target} of {owner[target]}/ (tests/layout/includes.txt, line {layout.lines[folder]})"
        if owner[target] != folder:
            used[folder].add((owner[target], where))
    yield from check_never(layout, used, "links")


def check_cmake_list(root, layout):
    text = (root / "CMakeLists.txt").read_text()
    listed = re.search(r"foreach\(folder IN ITEMS\s+([^)]*)\)", text)[1].split()
    if listed != layout.folders:
        number = text[: text.index("foreach(folder")].count("\n") + 1
        wrong = [f"{a} here, {b} there" for a, b in zip(listed, layout.folders) if a != b] or ["one has more folders"]
        yield f"CMakeLists.txt:{number}: not the folders of tests/layout/includes.txt in their order: {wrong[0]}"


def check_architecture(root, layout):
    """Rows "| `folder/` | what it is | may use |"; "–" for nothing."""
    rows, where = {}, {}
    for number, line in enumerate((root / "ARCHITECTURE.md").read_text().splitlines(), 1):
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3 and re.fullmatch(r"`[\w/]+/`", cells[0]):
            folder = cells[0].strip("`").rstrip("/")
            rows[folder], where[folder] = set(cells[2].replace(",", " ").split()) - {"–"}, number
    for folder in layout.folders:
        if folder not in rows:
            yield f"ARCHITECTURE.md:1: the table of folders has no row for `{folder}/`"
        elif rows[folder] != layout.may[folder]:
            differs = " ".join(sorted(rows[folder] ^ layout.may[folder]))
            yield f"ARCHITECTURE.md:{where[folder]}: what {folder}/ may use is not what tests/layout/includes.txt says: {differs}"
    for folder in rows.keys() - layout.may.keys():
        yield f"ARCHITECTURE.md:{where[folder]}: {folder}/ is not in tests/layout/includes.txt"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
    layout = Layout(root / "tests/layout/includes.txt")
    faults = list(layout.faults)
    if not faults:
        for check in (check_includes, check_links, check_cmake_list, check_architecture):
            faults += check(root, layout)
    print("\n".join(faults) or f"{len(layout.folders)} folders use each other as the table allows")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
