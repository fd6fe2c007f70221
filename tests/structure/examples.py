"""Holds the programs of examples/ to what they are for: to be read as a whole.

Each is a single file of at most sixty lines, includes no header by a path of its own, and is quoted
as a whole by a page of the tutorials.

usage: examples.py <folder of the repository>
"""

import pathlib
import re
import sys

MOST_LINES = 60
OWN_HEADER = re.compile(r'^\s*#\s*include\s*"', re.MULTILINE)


def faults_of(name, text, pages):
    lines = len(text.splitlines())
    if lines > MOST_LINES:
        yield f"examples/{name} has {lines} lines, more than {MOST_LINES}"
    if OWN_HEADER.search(text):
        yield f"examples/{name} includes a header that is not the library's"
    if f"<!-- quote: examples/{name} -->" not in pages:
        yield f"examples/{name} is quoted by no page of docs/pages/tutorials"


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    root = pathlib.Path(arguments[0])
    pages = "\n".join(
        page.read_text(encoding="utf-8") for page in (root / "docs/pages/tutorials").glob("*.md")
    )
    programs = sorted((root / "examples").glob("*.cpp"))
    if not programs:
        sys.exit(f"{root}: no examples")
    faults = [
        fault
        for program in programs
        for fault in faults_of(program.name, program.read_text(encoding="utf-8"), pages)
    ]
    print("\n".join(faults + [f"{len(programs)} examples, {len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
