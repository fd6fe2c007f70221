"""Holds the headers to the order of the rooms, and the pages to the headers.

The order is the table of CONTRIBUTING.md; it stands nowhere else by itself. A header includes only its
own room and rooms of lower rank; rooms of one rank do not know each other, and none names the details
of another (details.py). Boost.Hana is used by core/meta.hpp alone, device headers include neither
LibTorch nor Hana, every header has `#pragma once`, and no two have one name but for concept.hpp.
There are no exemptions. The overview of the rooms among the pages has the same ranks, and so has each
room's page.

usage: rooms.py <folder of the rooms>
"""

import pathlib
import re
import sys

import details

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|", re.MULTILINE)
PAGE_ROW = re.compile(r"^\| (\d+) \| @subpage room_(\w+) \|", re.MULTILINE)
PAGE_RANK = re.compile(r"\bRank (\d+)\b")


def ranks_of(contributing):
    """The ranks of the rooms, out of the table of CONTRIBUTING.md."""
    return {
        room: int(rank)
        for rank, rooms in ROW.findall(contributing)
        for room in re.findall(r"`(\w+)`", rooms)
    }


RANKS = ranks_of((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))

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
    headers = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if path.suffix not in (".hpp", ".cuh"):
            yield f"{name} is not a header (.hpp or .cuh)"
            continue
        headers[name] = path.read_text(encoding="utf-8")
        for fault in faults_of_header(name, headers[name]):
            yield f"{name} {fault}"
    yield from faults_of_names(headers)
    yield from details.faults(headers)


def faults_of_names(headers):
    """A file's name says what it holds without its room, but for the concept of each room."""
    rooms = {}
    for name in headers:
        room, _, file = name.rpartition("/")
        if file != "concept.hpp":
            rooms.setdefault(file, []).append(room)
    for file, where in rooms.items():
        if len(where) > 1:
            yield f"{file} is the name of a header of {' and of '.join(where)}"


def faults_of_pages(overview, pages):
    """pages: text by room, for each room that has headers."""
    shown = {room: int(rank) for rank, room in PAGE_ROW.findall(overview)}
    for room in sorted(shown.keys() | pages.keys()):
        if shown.get(room) != RANKS.get(room):
            yield f"the overview has {room} at rank {shown.get(room)}, CONTRIBUTING.md at {RANKS.get(room)}"
    for room, page in sorted(pages.items()):
        if PAGE_RANK.findall(page) != [str(RANKS.get(room))]:
            yield f"the page of {room} does not say its rank, {RANKS.get(room)}, once"


def pages_of(folder, docs):
    for room in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        page = docs / f"{room}.md"
        yield room, page.read_text(encoding="utf-8") if page.is_file() else ""


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0])
    docs = ROOT / "docs" / "pages" / "rooms"
    overview = (docs / "index.md").read_text(encoding="utf-8")
    found = list(faults(folder)) + list(faults_of_pages(overview, dict(pages_of(folder, docs))))
    for fault in found:
        print(fault)
    headers = sum(1 for path in folder.rglob("*") if path.is_file())
    if headers == 0:
        sys.exit(f"{folder}: no headers")
    print(f"{headers} headers, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
