"""Holds what the Markdown of the repository quotes to the code it quotes.

A fence of code that follows a line `<!-- quote: <file> [<region>] -->` must be the lines between the
two `//! [<region>]` markers of that file, without their common indentation; without a region, the
whole file. Links to files of the repository must lead to one.

usage: quotes.py [--write] <folder of the repository>
       --write puts the code into the fences, where they differ from it
"""

import pathlib
import re
import sys
import textwrap

QUOTE = re.compile(
    r"(?P<mark><!-- quote: (?P<file>\S+)(?: \[(?P<region>[^\]]+)\])? -->\n+```\w*\n)(?P<code>.*?)```",
    re.DOTALL,
)
MARK = re.compile(r"<!-- quote:")
LINK = re.compile(r"\]\((?!https?:|#|@ref)([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)


def region_of(text, region):
    parts = text.split(f"//! [{region}]") if region else ["", text, ""]
    if len(parts) != 3:
        return None
    lines = [line for line in parts[1].splitlines() if not line.strip().startswith("//! [")]
    return textwrap.dedent("\n".join(lines)).strip("\n ") + "\n"


def shown(quote):
    return f"[{quote['region']}]" if quote["region"] else "the whole"


def faults_of_quotes(root, name, text):
    quotes = list(QUOTE.finditer(text))
    if len(quotes) != len(MARK.findall(text)):
        yield f"{name}: a quote has no fence of code behind it"
    for quote in quotes:
        source = root / quote["file"]
        if not source.is_file():
            yield f"{name} quotes {quote['file']}, which does not exist"
            continue
        code = region_of(source.read_text(encoding="utf-8"), quote["region"])
        if code is None:
            yield f"{name} quotes {shown(quote)}, which {quote['file']} does not have"
        elif code != quote["code"]:
            yield f"{name} quotes {shown(quote)} of {quote['file']} otherwise than it is"


def rewritten(root, text):
    """The text, with the code in its fences."""

    def filled(quote):
        source = root / quote["file"]
        code = None
        if source.is_file():
            code = region_of(source.read_text(encoding="utf-8"), quote["region"])
        return quote["mark"] + (code or quote["code"]) + "```"

    return QUOTE.sub(filled, text)


def faults_of_links(root, name, text):
    for link in LINK.findall(FENCE.sub("", text)):
        if not (root / name).parent.joinpath(link).exists():
            yield f"{name} links to {link}, which does not exist"


def main(arguments):
    writes = arguments[:1] == ["--write"]
    arguments = arguments[writes:]
    if len(arguments) != 1:
        sys.exit(__doc__)
    root = pathlib.Path(arguments[0])
    names = [p.name for p in sorted(root.glob("*.md"))]
    names += [p.relative_to(root).as_posix() for p in sorted(root.glob("docs/**/*.md"))]
    found = []
    quotes = 0
    for name in names:
        text = (root / name).read_text(encoding="utf-8")
        if writes and rewritten(root, text) != text:
            text = rewritten(root, text)
            (root / name).write_text(text, encoding="utf-8")
        quotes += len(MARK.findall(text))
        found += faults_of_quotes(root, name, text)
        found += faults_of_links(root, name, text)
    for fault in found:
        print(fault)
    if not names or quotes == 0:
        sys.exit(f"{root}: nothing is quoted")
    print(f"{len(names)} files, {quotes} quotes, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
