"""Finds what a header names of the `detail` namespace of another room.

What stands in a namespace `detail` belongs to the headers of its room. Another room that needs it
shows that it deserves a public name. The headers are read without a compiler: names in strings and
comments do not count, and a name without `detail::` counts within a namespace `detail` where it is
called and a header that declares it is included, directly or not.
"""

import re

OPENING = re.compile(r"\bnamespace\s+(?:\w+\s*::\s*)*detail\s*\{")
QUALIFIED = re.compile(r"(?<![\w:])(?:contraflow::)?(?:\w+::)?detail::(\w+)")
FOREIGN = re.compile(r"\b(?:at|c10|torch|std|nlohmann)::(?:\w+::)*detail::\w+")
CALLED = re.compile(r"(?<![\w.>:])(\w+)\s*[(<{]")
INCLUDE = re.compile(r"^\s*#\s*include\s*<contraflow/([^>]+)>", re.MULTILINE)
DECLARATIONS = [
    re.compile(r"\b(?:class|struct|enum class)\s+(\w+)\s*(?:final\s*)?(?=[{:;<])"),
    re.compile(r"\bconcept\s+(\w+)\s*="),
    re.compile(r"\busing\s+(\w+)\s*="),
    re.compile(r"\bconstexpr\s[^;(){}]*?(\w+)\s*(?:\[\w*\]\s*)*(?:=|\{\})"),
    re.compile(r"(?:^|[\w>&*\]])\s*[ \n&*](\w+)\s*\([^;{}]*\)[^;{}()=]*(?:\{\}|;)"),
]


def code_of(text):
    """Without comments, strings and directives."""
    text = re.sub(r'R"\(.*?\)"', '""', text, flags=re.DOTALL)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
    text = re.sub(r"(?<!\w)'(?:\\.|[^'\\\n])+'", "' '", text)
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


def bodies(code):
    """What stands in namespaces `detail`."""
    for match in OPENING.finditer(code):
        depth, end = 1, match.end()
        while end < len(code) and depth > 0:
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        yield code[match.end() : end - 1]


def without_inner_braces(body):
    kept, depth = [], 0
    for character in body:
        if character == "}":
            depth -= 1
        if depth == 0:
            kept.append(character)
        if character == "{":
            depth += 1
    return "".join(kept)


def declared(code):
    names = set()
    for body in bodies(code):
        outside = without_inner_braces(body)
        for pattern in DECLARATIONS:
            names.update(pattern.findall(outside))
    return names


def reachable(name, included):
    """The headers that a header includes, directly or not."""
    seen, open_ends = set(), [name]
    while open_ends:
        for other in included.get(open_ends.pop(), ()):
            if other not in seen:
                seen.add(other)
                open_ends.append(other)
    return seen


def faults(headers):
    """One line for each name of another room's details.

    headers: text by name, such as "io/file.hpp".
    """
    room = lambda name: name.split("/")[0]
    code = {name: code_of(text) for name, text in headers.items()}
    included = {name: INCLUDE.findall(text) for name, text in headers.items()}
    own = {name: declared(text) for name, text in code.items()}
    of_room = {}
    for name, names in own.items():
        of_room.setdefault(room(name), set()).update(names)
    for name, text in sorted(code.items()):
        used = set(QUALIFIED.findall(FOREIGN.sub("", text)))
        for body in bodies(text):
            used.update(CALLED.findall(body))
        used -= of_room[room(name)]
        for other in sorted(reachable(name, included)):
            if room(other) != room(name):
                for taken in sorted(used & own.get(other, set())):
                    yield f"{name} uses detail::{taken} of {other}, which is another room's"
