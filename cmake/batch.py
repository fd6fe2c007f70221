"""Writes one source that holds several, each in a namespace of its own, so that their names do not meet.

usage: batch.py [--programs] <output> <source>...

What they include comes first: within a namespace it is a no-op then. Programs become one that is the
one of them by whose name it is called.
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


CHOICE = r"""
namespace {{
[[maybe_unused]] int run(int (&program)(), int, char**) {{ return program(); }}
[[maybe_unused]] int run(int (&program)(int, char**), int count, char** arguments) {{
  return program(count, arguments);
}}
}}  // namespace

int main(int count, char** arguments) {{
  const std::string name = std::filesystem::path(arguments[0]).stem().string();
{choices}
  std::cerr << name << ": no program of this batch\n";
  return 2;
}}
"""


def choice(sources):
    choices = [
        f'  if (name == "{source.stem}") return run(batch_of_{source.stem}::main, count, arguments);'
        for source in sources
    ]
    return CHOICE.format(choices="\n".join(choices))


def batch(sources, programs):
    lines = dict.fromkeys(line for source in sources for line in includes(source))
    spaces = [
        f'namespace batch_of_{source.stem} {{\n#include "{source}"\n}}' for source in sources
    ]
    if programs:
        own = ["#include <filesystem>", "#include <iostream>", "#include <string>"]
        return "\n".join([*dict.fromkeys([*lines, *own]), *spaces]) + "\n" + choice(sources)
    return "\n".join([*lines, *spaces]) + "\n"


def main(arguments):
    programs = arguments[:1] == ["--programs"]
    output, *sources = arguments[programs:] or sys.exit(__doc__)
    output = pathlib.Path(output)
    text = batch([pathlib.Path(name).resolve() for name in sources], programs)
    # One that stays as it was is not compiled again.
    if not output.is_file() or output.read_text(encoding="utf-8") != text:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
