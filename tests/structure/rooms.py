"""Holds the headers to the order of the rooms.

A header includes only its own room and rooms of lower rank; rooms of one rank do not know each
other. Boost.Hana is used by core/meta.hpp alone, device headers include neither LibTorch nor Hana,
and every header has `#pragma once`. There are no exemptions.

usage: rooms.py <folder of the rooms>
"""

import pathlib
import re
import sys

RANKS = {
    "core": 0,
    "time": 1,
    "kernels": 1,
    "io": 1,
    "distributed": 1,
    "path": 2,
    "text": 2,
    "network": 2,
    "observe": 2,
    "model": 3,
    "solver": 3,
    "reward": 3,
    "advantage": 3,
    "policy": 4,
    "objective": 5,
    "train": 6,
    "toy": 7,
    "pipeline": 7,
    "sd3": 8,
}

# Headers above the rooms: the version, and the umbrella that includes them all.
ABOVE = {"version.hpp", "contraflow.hpp"}

INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)
LIBTORCH = re.compile(r"(torch|ATen|c10|caffe2)/")


def without_comments(text):
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def includes(text):
    return [match[1:-1] for match in INCLUDE.findall(without_comments(text))]


def may_include(room, other):
    return other == room or RANKS[other] < RANKS[room]


def faults_of_include(name, room, included):
    if included.startswith("boost/hana") and name != "core/meta.hpp":
        yield f"includes <{included}>: only core/meta.hpp uses Boost.Hana"
    if name.endswith(".cuh") and LIBTORCH.match(included):
        yield f"includes <{included}>: device headers do without LibTorch"
    if not included.startswith("contraflow/"):
        if "/" not in included and included.endswith((".hpp", ".cuh")):
            yield f"includes {included}: write the path from contraflow/"
        return
    target = included.removeprefix("contraflow/")
    if target in ABOVE:
        if target != "version.hpp":
            yield f"includes <{included}>, which includes every room"
        return
    other = target.split("/")[0]
    if other not in RANKS:
        yield f"includes <{included}>: {other} is not a room"
    elif not may_include(room, other):
        yield (
            f"includes <{included}>: {room} has rank {RANKS[room]} and {other} rank"
            f" {RANKS[other]}; only its own room and lower ranks are allowed"
        )


def faults_of_header(name, text):
    if "#pragma once" not in text:
        yield "has no #pragma once"
    if name in ABOVE:
        return
    room = name.split("/")[0]
    if "/" not in name or room not in RANKS:
        yield f"is in no room; the rooms are {', '.join(RANKS)}"
        return
    for included in includes(text):
        yield from faults_of_include(name, room, included)


def faults(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if path.suffix not in (".hpp", ".cuh"):
            yield f"{name} is not a header (.hpp or .cuh)"
            continue
        for fault in faults_of_header(name, path.read_text(encoding="utf-8")):
            yield f"{name} {fault}"


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0])
    found = list(faults(folder))
    for fault in found:
        print(fault)
    headers = sum(1 for path in folder.rglob("*") if path.is_file())
    if headers == 0:
        sys.exit(f"{folder}: no headers")
    print(f"{headers} headers, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
