#!/usr/bin/env python3
"""Holds pages to the headers: each sentence of a static_assert has a row on the page on errors, and
each row a sentence; each header stands on the page of its room.

Usage: pages.py ROOT
"""

import pathlib
import re
import sys

LITERAL = r'"((?:[^"\\]|\\.)*)"'


def sentences(include):
    """The sentences of all headers, without their mark."""
    found = set()
    for path in sorted(include.rglob("*.hpp")):
        for literals in re.findall(rf'((?:{LITERAL}\s*)+)\)', path.read_text()):
            text = "".join(part.replace('\\"', '"') for part in re.findall(LITERAL, literals[0]))
            if text.startswith("contraflow: "):
                found.add(text.removeprefix("contraflow: "))
    return found


def rows(page):
    """What the first column of the table of sentences holds: how they begin."""
    table = page.split("| sentence begins |", 1)[1].split("\n\n", 1)[0]
    cells = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    return [cell.removesuffix(" ...") for cell in cells]


def faults(all_sentences, beginnings):
    for sentence in sorted(all_sentences):
        if not any(sentence.startswith(beginning) for beginning in beginnings):
            yield f"no row for: {sentence}"
    for beginning in beginnings:
        if not any(sentence.startswith(beginning) for sentence in all_sentences):
            yield f"no sentence begins: {beginning}"


def unlisted(include, pages):
    """Headers that the page of their room does not list."""
    for path in sorted(include.rglob("*/*.hpp")):
        name = f"{path.parent.name}/{path.name}"
        page = pages / f"{path.parent.name}.md"
        if not page.exists() or f"@ref {name} " not in page.read_text():
            yield f"{name}: not on the page of its room"


def main():
    root = pathlib.Path(sys.argv[1])
    all_sentences = sentences(root / "include")
    beginnings = rows((root / "docs/pages/errors.md").read_text())
    found = list(faults(all_sentences, beginnings))
    found += unlisted(root / "include/contraflow", root / "docs/pages/rooms")
    for fault in found:
        print(fault)
    print(f"{len(all_sentences)} sentences, {len(beginnings)} rows, {len(found)} faults")
    sys.exit(1 if found or not all_sentences else 0)


if __name__ == "__main__":
    main()
