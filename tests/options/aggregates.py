"""Writes down the aggregates of the library, for options.cpp.

They are the structs at namespace scope that give a member a default, outside of namespaces that are
nobody's business and of the room `kernels`. Two files come of it: the headers that hold them, and a
line for each, `CONTRAFLOW_AGGREGATE(<number of members>, <type>)`. That the numbers are right the
compiler checks.

usage: aggregates.py <folder of the rooms> <file of includes> <file of the list> [<pattern>...]
       headers that match a pattern, such as text/*.hpp, are left out
"""

import fnmatch
import pathlib
import re
import sys

# Arguments of templates, by which options.cpp looks at them.
ARGUMENTS = {
    "AdaptiveRungeKutta": "<cf::tableau::DormandPrince>",
    "DistillationPolicy": "<cf::Role::teacher>",
    "DraftK": "<cf::Euler>",
    "LastStepsCarryGradient": "<cf::Euler>",
    "PerReward": "<cf::GroupAdvantage>",
    "RecordedSteps": "<true>",
    "Rollout": "<cf::RecordedSteps<true>>",
    "TransitionDistillation": "<cf::Role::teacher>",
    "Window": "<cf::FlowSde, cf::Euler>",
}
# Templates that options.cpp does not look at, and why.
EXEMPT = {
    "Weighted": "made by weighted(), which is given the reward whole",
    "CollectorContext": "made by trainers, for collectors",
    "ForwardBatch": "made by trainers, for terms",
    "PathBatch": "made by trainers, for terms",
    "PathFunctions": "made by trainers, for terms",
    "ScoredRollout": "made by scorers, for learners",
    "TransitionBatch": "made by trainers, for terms",
}
INTERNAL = {"detail", "images", "clip_bpe", "safetensors", "tfevents"}

NAMESPACE = re.compile(r"^(?:inline )?namespace (\S+) \{$|^\}  // namespace (\S+)$")
STRUCT = re.compile(r"^struct (\w+)(?: final)? \{$")
NO_DATA = re.compile(r"(using|static|static_assert|friend|template|struct|class|enum|return)\b")


def without_comments(text):
    """Nor what stands in quotes."""
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
    return re.sub(r"//(?! namespace )[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def without_brackets(text):
    """A declaration without template arguments, initialisers in braces, parameters."""
    for brackets in (r"<[^<>]*>", r"\{[^{}]*\}", r"\([^()]*\)"):
        before = None
        while before != text:
            before, text = text, re.sub(brackets, "", text)
    return text


def statements(body):
    """What ends in a semicolon at the outermost level; bodies of functions end nothing."""
    depth, begin = 0, 0
    for place, c in enumerate(body):
        depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(c, 0)
        if c == ";" and depth == 0:
            yield body[begin:place].strip()
            begin = place + 1
        elif c == "}" and depth == 0 and not re.match(r"\s*;|\s*,", body[place + 1 :]):
            begin = place + 1


def members(body):
    """The number of data members of a struct, and whether one of them has a default."""
    count, has_default = 0, False
    for statement in statements(re.sub(r"\b(public|private):", "", body)):
        declaration = without_brackets(statement)
        is_function = re.search(r"\(", re.sub(r"<[^;]*>", "", statement.split("=")[0]))
        if not declaration or NO_DATA.match(statement) or is_function:
            continue
        count += declaration.count(",") + 1
        has_default = has_default or "=" in declaration
    return count, has_default


def body_from(lines, first):
    body = []
    for line in lines[first:]:
        if line.startswith("}"):
            break
        body.append(line)
    return "\n".join(body)


def aggregates(text):
    """(full name, number of members, whether it is a template) of those of a header."""
    lines = without_comments(text).splitlines()
    namespaces = []
    for number, line in enumerate(lines):
        namespace, struct = NAMESPACE.match(line.rstrip()), STRUCT.match(line.rstrip())
        if namespace and namespace[1]:
            namespaces.append(namespace[1])
        elif namespace:
            namespaces.pop()
        elif struct and not INTERNAL & set("::".join(namespaces).split("::")):
            count, has_default = members(body_from(lines, number + 1))
            is_template = number > 0 and lines[number - 1].startswith(("template", "    requires"))
            if has_default:
                yield "::".join([*namespaces, struct[1]]), count, is_template


def lines_of(text):
    for name, count, is_template in aggregates(text):
        short = name.split("::")[-1]
        if is_template and short in EXEMPT:
            continue
        if is_template and short not in ARGUMENTS:
            raise SystemExit(f"{name}: give aggregates.py the arguments of this template")
        arguments = ARGUMENTS[short] if is_template else ""
        yield f"CONTRAFLOW_AGGREGATE({count}, {name}{arguments})\n"


def main(arguments):
    if len(arguments) < 3:
        sys.exit(__doc__)
    folder, includes, listed = (pathlib.Path(argument) for argument in arguments[:3])
    headers, lines = [], []
    for path in sorted(folder.rglob("*.hpp")):
        name = path.relative_to(folder).as_posix()
        left_out = name.startswith("kernels/")
        if left_out or any(fnmatch.fnmatch(name, pattern) for pattern in arguments[3:]):
            continue
        own = list(lines_of(path.read_text(encoding="utf-8")))
        lines += own
        if own:
            headers.append(f"#include <contraflow/{name}>\n")
    if not lines:
        sys.exit(f"{folder}: no aggregates")
    includes.write_text("".join(headers))
    listed.write_text("".join(lines))
    print(f"{len(lines)} aggregates of {len(headers)} headers")


if __name__ == "__main__":
    main(sys.argv[1:])
