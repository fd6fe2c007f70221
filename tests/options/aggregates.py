"""Holds the list of aggregates in options.cpp complete.

options.cpp checks, while compiling, that no aggregate of the library nests another that has
something to destroy. This checks that it looks at all of them: every struct at namespace scope of a
header, outside of `detail` and of the room `kernels`, that gives a member a default.

usage: aggregates.py <folder of the rooms> <options.cpp>
"""

import pathlib
import re
import sys

# Structs that options.cpp does not look at, and why.
EXEMPT = {
    "Weighted": "a template over the reward, made by weighted()",
    "RandomFolderOptions": "no aggregate: its members are set one by one",
    "TextCondition": "tensors, made by the library",
    "ForwardBatch": "made by trainers, for terms",
    "TransitionBatch": "made by trainers, for terms",
}

# Namespaces that are nobody's business outside.
INTERNAL = r"(?:\S+::)?(?:detail|images|clip_bpe|safetensors|tfevents)"

STRUCT = re.compile(r"^struct (\w+)( final)?( : [^{;]*)?\s*\{", re.MULTILINE)
MEMBER_WITH_DEFAULT = re.compile(
    r"^  (?!static |using |friend |return )[\w:]+[^;()\n]*\s\w+ = ", re.MULTILINE
)


def without_comments(text):
    return re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def without_details(text):
    namespace = rf"^namespace {INTERNAL} \{{.*?^\}}  // namespace {INTERNAL}$"
    return re.sub(namespace, "", text, flags=re.DOTALL | re.MULTILINE)


def body_from(text, begin):
    depth, end = 1, begin
    while depth and end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[begin : end - 1]


def aggregates(text):
    """Names of the structs of a header that have a member with a default."""
    text = without_comments(without_details(text))
    for match in STRUCT.finditer(text):
        if MEMBER_WITH_DEFAULT.search(body_from(text, match.end())):
            yield match[1]


def faults(folder, listed):
    for path in sorted(folder.rglob("*.hpp")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("kernels/"):
            continue
        for aggregate in aggregates(path.read_text(encoding="utf-8")):
            if aggregate in EXEMPT or re.search(rf"\bOf<[\w:]*\b{aggregate}\b", listed):
                continue
            yield f"{name}: {aggregate} is not in the list of tests/options/options.cpp"


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    folder, listed = (pathlib.Path(argument) for argument in arguments)
    found = list(faults(folder, listed.read_text(encoding="utf-8")))
    for fault in found:
        print(fault)
    count = sum(len(list(aggregates(path.read_text()))) for path in folder.rglob("*.hpp"))
    if count == 0:
        sys.exit(f"{folder}: no aggregates")
    print(f"{count} aggregates, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
