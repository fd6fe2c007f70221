"""Every header compiles alone, each in a process of its own.

usage: stand_alone.py [--jobs N] [--part K/N] [--parse-once <header>]... <list of headers> <compiler> <flags...>

The list holds one header a line, as it is included, such as contraflow/core/error.hpp. Parsing
LibTorch is nearly all of the time, so the headers named by --parse-once are precompiled, in sets that
grow by one in the order given. A header is given a set only if it includes every header of it, itself
or through other headers of the list: what it sees then is what it includes itself. With --part only
one of N parts is tried, which K chooses, by their names.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def include_folders(flags):
    """The folders of the flags, in which headers of the list are found."""
    folders, take = [], False
    for flag in flags:
        if take:
            folders.append(pathlib.Path(flag))
        elif flag.startswith("-I") and flag != "-I":
            folders.append(pathlib.Path(flag[2:]))
        take = flag in ("-I", "-isystem")
    return folders


def flags_of(arguments):
    """The flags, those within @files too."""
    flags = []
    for argument in arguments:
        if argument.startswith("@"):
            flags += pathlib.Path(argument[1:]).read_text(encoding="utf-8").split()
        else:
            flags.append(argument)
    return flags


def included_by(headers, folders):
    """What each header includes, itself or through other headers of the list."""
    direct = {}
    for header in headers:
        paths = [folder / header for folder in folders if (folder / header).is_file()]
        if not paths:
            raise ValueError(f"{header} is in no folder of the flags")
        direct[header] = INCLUDE.findall(paths[0].read_text(encoding="utf-8"))
    return {header: reached(header, direct) for header in headers}


def reached(header, direct):
    found, pending = set(), [header]
    while pending:
        for name in direct.get(pending.pop(), ()):
            if name not in found:
                found.add(name)
                pending.append(name)
    return found


class Compiler:
    def __init__(self, command, folder):
        self.command = command
        self.folder = pathlib.Path(folder)
        said = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True)
        self.clang = "clang" in said.stdout

    def precompile(self, parsed):
        """Precompiles headers, and gives the flags that use them."""
        header = self.folder / f"parsed_{len(parsed)}.hpp"
        header.write_text("".join(f"#include <{name}>\n" for name in parsed), encoding="utf-8")
        output = header.with_suffix(".hpp.pch" if self.clang else ".hpp.gch")
        # Not once more at the end of every header.
        instantiate = ["-fpch-instantiate-templates"] if self.clang else []
        subprocess.run(
            [*self.command, *instantiate, "-x", "c++-header", str(header), "-o", str(output)],
            check=True,
        )
        return ["-include-pch", str(output)] if self.clang else ["-include", str(header)]

    def fault(self, header, flags):
        """What the compiler says of a header that does not compile, or None."""
        source = self.folder / (header.replace("/", "_") + ".cpp")
        source.write_text(f"#include <{header}>\n", encoding="utf-8")
        run = subprocess.run(
            [*self.command, *flags, "-fsyntax-only", str(source)], capture_output=True, text=True
        )
        return run.stdout + run.stderr if run.returncode else None


def part_of(headers, part):
    """Those of the part K/N; each header is in one of the N parts."""
    chosen, parts = map(int, part.split("/"))
    return [one for one in headers if zlib.crc32(one.encode()) % parts == chosen % parts]


def faults(headers, parse_once, command, jobs=1, part="0/1"):
    """What is wrong with each header that does not compile alone, and how many had each set."""
    included = included_by(headers, include_folders(flags_of(command[1:])))
    headers = part_of(headers, part)
    sets = [parse_once[:count] for count in range(len(parse_once), 0, -1)]
    chosen = {
        header: next((one for one in sets if set(one) <= included[header]), []) for header in headers
    }
    counts = {len(one): sum(1 for header in headers if chosen[header] == one) for one in [*sets, []]}
    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(command, folder)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            used = [one for one in sets if counts[len(one)]]
            flags = dict(zip(map(len, used), pool.map(compiler.precompile, used))) | {0: []}
            found = pool.map(lambda one: compiler.fault(one, flags[len(chosen[one])]), headers)
            said = dict(zip(headers, found))
    return {header: text for header, text in said.items() if text}, counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=cores)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--parse-once", action="append", default=[])
    parser.add_argument("list", type=pathlib.Path)
    parser.add_argument("compiler")
    arguments, flags = parser.parse_known_args()
    headers = arguments.list.read_text(encoding="utf-8").split()
    if not headers:
        sys.exit(f"{arguments.list}: no headers")
    command = [arguments.compiler, *flags]
    found, counts = faults(
        headers, arguments.parse_once, command, arguments.jobs, arguments.part
    )
    for header, said in found.items():
        print(f"{header} does not compile alone:\n{said}")
    for count, users in counts.items():
        parsed = ", ".join(arguments.parse_once[:count]) or "nothing"
        print(f"{users} headers with {parsed} parsed before")
    tried = f"{sum(counts.values())} of {len(headers)} headers (part {arguments.part})"
    print(f"{tried}, each alone, with {arguments.compiler}; {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
