#!/usr/bin/env python3
"""Checks that programs were compiled and linked as a release is to be (cmake/ZtOptions.cmake, ZT_HARDEN), by what readelf says of them.

Usage: hardening.py PROGRAM… Prints one line "program: what it lacks" a fault; the exit status is 1 if there is one."""
import re
import subprocess
import sys

ENDBR64 = bytes.fromhex("f30f1efa")
BTI = (bytes.fromhex("5f2403d5"), bytes.fromhex("3f2303d5"))  # bti c, paciasp


def readelf(program, *options):
    return subprocess.run(["readelf", "-W", *options, program], check=True, capture_output=True, text=True).stdout


def code_at(program, address, size):
    """The bytes of the section that holds an address."""
    for line in readelf(program, "-S").splitlines():
        match = re.search(r"\] \S+ +\S+ +([0-9a-f]{16}) ([0-9a-f]+) ([0-9a-f]+) ", line)
        if match:
            begin, offset, length = (int(x, 16) for x in match.groups())
            if begin <= address < begin + length:
                with open(program, "rb") as file:
                    file.seek(offset + address - begin)
                    return file.read(size)
    return b""


def faults(program):
    header, segments, dynamic = readelf(program, "-h"), readelf(program, "-l"), readelf(program, "-d")
    symbols = readelf(program, "--symbols", "--dyn-syms")
    if "DYN (" not in header or "INTERP" not in segments:
        yield "is not position-independent (-pie)"
    if "GNU_RELRO" not in segments:
        yield "has no read-only relocations (-z relro)"
    if not re.search(r"BIND_NOW|Flags:.*NOW", dynamic):
        yield "binds symbols late (-z now)"
    stack = re.search(r"GNU_STACK.*", segments)
    if not stack or "RWE" in stack[0]:
        yield "has an executable stack (-z noexecstack)"
    if re.search(r"LOAD.* RWE", segments):
        yield "has memory that is writable and executable"
    if "TEXTREL" in dynamic:
        yield "has relocations in its code"
    if re.search(r"RUNPATH|RPATH", dynamic):
        yield "looks for libraries in a path of its own"
    if "__stack_chk_fail" not in symbols:
        yield "has no stack protector (-fstack-protector-strong)"
    if not re.search(r"UND __(memcpy|read|recv|vsnprintf|snprintf|fdelt|poll|memset|memmove|realpath|strncpy|open64_2|open_2)\w*_(chk|2)", symbols):
        yield "calls no checked function of the C library (-D_FORTIFY_SOURCE=3)"
    if "__glibcxx_assert_fail" not in symbols:
        yield "has no assertions of the C++ library (-D_GLIBCXX_ASSERTIONS)"
    main = re.search(r": ([0-9a-f]{16}) +\d+ FUNC +\w+ +\w+ +\d+ main$", symbols, re.M)
    first = code_at(program, int(main[1], 16), 4) if main else b""
    if "X86-64" in header and first != ENDBR64:
        yield "does not mark where jumps may lead (-fcf-protection=full)"
    if "AArch64" in header and first not in BTI:
        yield "does not mark where jumps may lead (-mbranch-protection=standard)"


def main():
    found = [f"{program}: {fault}" for program in sys.argv[1:] for fault in faults(program)]
    print("\n".join(found) or f"{len(sys.argv) - 1} programs are hardened")
    return 1 if found or len(sys.argv) < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
