"""Holds the page of all errors to the headers: each place that reports one has a row.

A row is the argument that is named, what was expected of it, and the headers that say so. What is only
known when it happens is shown as an ellipsis.

usage: messages.py [--write] <folder of the repository>
       --write puts the rows into the page
"""

import pathlib
import re
import sys

PAGE = "docs/pages/messages.md"
HEADERS = "include/contraflow"
BEGIN = "<!-- written by docs/messages.py: all rows below -->\n"
CALL = re.compile(r"\b(expects|expects_at_least_one|(?:throw |return )(?:Write)?Error)\(")
COMMENT = re.compile(r"//[^\n]*")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Within a raw string or a character a parenthesis closes nothing; the headers have no raw ones here.
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)\'')
ELLIPSIS = "..."


def arguments_of(text, start):
    """The arguments of a call whose parenthesis opens before start, as they are written."""
    depth, begin, at, found = 0, start, start, []
    while True:
        quoted = QUOTED.match(text, at)
        if quoted:
            at = quoted.end()
            continue
        mark = text[at]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            if depth == 0:
                return [*found, text[begin:at]]
            depth -= 1
        elif mark == "," and depth == 0:
            found.append(text[begin:at])
            begin = at + 1
        at += 1


def shown(expression):
    """The text of an expression: its literals, and an ellipsis for all else."""
    parts, at = [], 0
    for literal in LITERAL.finditer(expression):
        between = expression[at:literal.start()].strip()
        parts += [ELLIPSIS] if between.strip("+ ") else []
        parts.append(literal[1].replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\"))
        at = literal.end()
    parts += [ELLIPSIS] if expression[at:].strip("+ \n") else []
    return re.sub(r"(\.\.\.)+", ELLIPSIS, "".join(parts))


def messages(text):
    """What a header reports: pairs of an argument and what was expected of it."""
    text = COMMENT.sub("", text)
    for call in CALL.finditer(text):
        arguments = arguments_of(text, call.end())
        if call[1] == "expects" and len(arguments) == 4:
            yield shown(arguments[1]), shown(arguments[2])
        elif call[1] == "expects_at_least_one" and len(arguments) == 2:
            yield shown(arguments[1]), "at least 1"
        elif call[1].endswith("Error") and len(arguments) == 3:
            yield shown(arguments[0]), shown(arguments[1])


def cell(text):
    return text.replace("|", "&#124;").replace("@", "&#64;").replace("<", "&lt;").replace("*", "&#42;")


def code(text):
    return f"`{text}`" if text != ELLIPSIS else ELLIPSIS


def table(root):
    places = {}
    headers = root / HEADERS
    for path in sorted(headers.rglob("*.hpp")):
        for message in messages(path.read_text(encoding="utf-8")):
            if message == (ELLIPSIS, ELLIPSIS):
                continue  # a function that passes on what it is given
            places.setdefault(message, set()).add(path.relative_to(headers).as_posix())
    lines = ["| argument | expected | said by |", "|---|---|---|"]
    for (argument, expected), names in sorted(places.items(), key=lambda item: item[0]):
        lines.append(f"| {code(argument)} | {cell(expected)} | {', '.join(sorted(names))} |")
    return "\n".join(lines) + "\n", len(places)


def main(arguments):
    writes = arguments[:1] == ["--write"]
    arguments = arguments[writes:]
    if len(arguments) != 1:
        sys.exit(__doc__)
    root = pathlib.Path(arguments[0])
    page = root / PAGE
    head, begin, rows = page.read_text(encoding="utf-8").partition(BEGIN)
    made, count = table(root)
    if not begin or not count:
        sys.exit(f"{PAGE}: no place for its rows, or no rows")
    if writes:
        page.write_text(head + begin + "\n" + made, encoding="utf-8")
    elif rows.strip() != made.strip():
        old, new = set(rows.strip().splitlines()), set(made.splitlines())
        for line in sorted(new - old):
            print(f"no row: {line}")
        for line in sorted(old - new):
            print(f"no error: {line}")
        sys.exit(f"{PAGE}: python3 docs/messages.py --write . makes it anew")
    print(f"{count} errors on the page")


if __name__ == "__main__":
    main(sys.argv[1:])
