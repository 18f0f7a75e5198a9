#!/usr/bin/env python3
"""Makes the table of system call numbers that the container runtime's filters are compiled with.

    syscalls.py FOLDER >guest/src/container/seccomp/syscalls.tsv

FOLDER is the source of the crate linux-raw-sys (`cargo fetch` leaves it in ~/.cargo/registry/src), which holds the
numbers of the kernel's headers for each architecture. A newer release of it brings the calls of a newer kernel.
"""
import re
import sys
from pathlib import Path

# The columns, and the architecture's name in linux-raw-sys.
COLUMNS = {"x86_64": "x86_64", "x86": "x86", "x32": "x32", "aarch64": "aarch64", "arm": "arm"}
X32_BIT = 0x40000000
NUMBER = re.compile(r"pub const __(?P<arm>ARM_)?NR_(?P<name>[a-z_][a-z0-9_]*): u32 = (?P<number>\d+);")
# Names that profiles use for calls of 32-bit Arm beside those of the headers.
ARM_NAMES = {"arm_fadvise64_64": 270, "arm_sync_file_range": 341}


def numbers(source, column):
    """The calls of an architecture by name."""
    found = {}
    for match in NUMBER.finditer((source / COLUMNS[column] / "general.rs").read_text()):
        number = int(match["number"])
        if column == "x32":
            number &= ~X32_BIT
        found[match["name"]] = number
    if column == "arm":
        found |= ARM_NAMES
    return found


def main():
    source = Path(sys.argv[1])
    if (source / "src").is_dir():
        source /= "src"
    tables = {column: numbers(source, column) for column in COLUMNS}
    print("name", *COLUMNS, sep="\t")
    for name in sorted(set().union(*tables.values())):
        print(name, *(tables[column].get(name, "-") for column in COLUMNS), sep="\t")


main()
