#!/usr/bin/env python3
"""Holds pages to the headers: each sentence of a static_assert has a row on the page on errors, and
each row a sentence; each header stands on the page of its room; each warning has a row on the page of
what goes wrong, and each row a warning.

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


def warned(include):
    """The quantities of all warnings."""
    found = set()
    for path in sorted(include.rglob("*.hpp")):
        text = path.read_text()
        found |= set(re.findall(rf"Warning\{{\s*{LITERAL}", text))
        found |= set(re.findall(rf"check_threshold\(report, {LITERAL}", text))
        found |= set(re.findall(rf"note\(report, {LITERAL}", text))
    return found


def warning_faults(quantities, page):
    table = page.split("| quantity |", 1)[1].split("\n\n", 1)[0]
    listed = set(re.findall(r"^\| `([^`]+)` ", table, re.MULTILINE))
    yield from (f"no row for the warning {name}" for name in sorted(quantities - listed))
    yield from (f"no warning {name}" for name in sorted(listed - quantities))


def main():
    root = pathlib.Path(sys.argv[1])
    all_sentences = sentences(root / "include")
    beginnings = rows((root / "docs/pages/errors.md").read_text())
    found = list(faults(all_sentences, beginnings))
    found += unlisted(root / "include/contraflow", root / "docs/pages/rooms")
    quantities = warned(root / "include")
    found += warning_faults(quantities,
                            (root / "docs/pages/when_something_goes_wrong.md").read_text())
    for fault in found:
        print(fault)
    print(f"{len(all_sentences)} sentences, {len(beginnings)} rows, {len(quantities)} warnings, "
          f"{len(found)} faults")
    sys.exit(1 if found or not all_sentences or not quantities else 0)


if __name__ == "__main__":
    main()
