"""Writes one source that holds several, each in a namespace of its own, so that their names do not meet.

usage: batch.py <output> <source>...

What they include comes first: within a namespace it is a no-op then.
"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'^#include ([<"])([^>"]+)[>"]', re.MULTILINE)


def includes(source):
    for mark, name in INCLUDE.findall(source.read_text(encoding="utf-8")):
        beside = source.parent / name
        if mark == '"':
            yield f'#include "{beside if beside.is_file() else name}"'
        else:
            yield f"#include <{name}>"


def batch(sources):
    lines = dict.fromkeys(line for source in sources for line in includes(source))
    spaces = [
        f'namespace batch_of_{source.stem} {{\n#include "{source}"\n}}' for source in sources
    ]
    return "\n".join([*lines, *spaces]) + "\n"


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    output = pathlib.Path(arguments[0])
    text = batch([pathlib.Path(name).resolve() for name in arguments[1:]])
    # One that stays as it was is not compiled again.
    if not output.is_file() or output.read_text(encoding="utf-8") != text:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
