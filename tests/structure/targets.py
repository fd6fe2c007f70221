"""Holds the headers to the targets of CMake that they belong to.

cmake/ContraflowComponents.cmake lists the headers of each component; the others belong to
contraflow::contraflow. A header includes headers of contraflow::contraflow, of its own component and of
those that its component needs; libraries are included by the component that links them.

usage: targets.py <folder of the repository>
"""

import pathlib
import re
import sys

SET = re.compile(r"^set\(CONTRAFLOW_(HEADERS|NEEDS)_(\w+)\s+([^)]*)\)", re.MULTILINE)
INCLUDE = re.compile(r"^\s*#\s*include\s*<([^>]+)>", re.MULTILINE)
LIBRARIES = {
    "images": re.compile(r"(png|jpeglib|jerror)\.h$"),
    "text": re.compile(r"unicode/|sentencepiece"),
    "http": re.compile(r"httplib\.h$"),
    "ocr": re.compile(r"tesseract/|allheaders\.h$"),
    "mpi": re.compile(r"mpi\.h$"),
    "nccl": re.compile(r"nccl\.h$|c10/cuda/"),
}


def lists_of(text):
    """{"HEADERS": patterns by component, "NEEDS": components by component}."""
    lists = {"HEADERS": {}, "NEEDS": {}}
    for kind, component, words in SET.findall(text):
        lists[kind][component] = words.split()
    return lists


def matches(name, pattern):
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), name) is not None


def components_of(name, headers):
    return [c for c, patterns in headers.items() if any(matches(name, p) for p in patterns)]


def faults(files, lists):
    """One line for each header in two components, each pattern of none, each include across.

    files: text by name, such as "io/png.hpp".
    """
    headers, needs = lists["HEADERS"], lists["NEEDS"]
    for component, patterns in headers.items():
        for pattern in patterns:
            if not any(matches(name, pattern) for name in files):
                yield f"contraflow::{component} lists {pattern}, which no header fits"
    for name, text in sorted(files.items()):
        own = components_of(name, headers)
        if len(own) > 1:
            yield f"{name} is in {' and '.join(own)}"
        allowed = set(own)
        for component in own:
            allowed.update(needs.get(component, []))
        for included in INCLUDE.findall(text):
            if included == "contraflow/contraflow.hpp":
                continue
            others = components_of(included.removeprefix("contraflow/"), headers)
            others += [c for c, pattern in LIBRARIES.items() if pattern.search(included)]
            for other in others:
                if other not in allowed:
                    target = own[0] if own else "contraflow"
                    yield f"{name} of contraflow::{target} includes <{included}> of contraflow::{other}"


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    root = pathlib.Path(arguments[0])
    folder = root / "include" / "contraflow"
    files = {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8")
             for p in folder.rglob("*.hpp")}
    text = "".join((root / "cmake" / name).read_text(encoding="utf-8")
                   for name in ("ContraflowComponents.cmake",
                                "ContraflowComponentDependencies.cmake"))
    lists = lists_of(text)
    if not files or not lists["HEADERS"]:
        sys.exit(f"{root}: no headers or no components")
    found = list(faults(files, lists))
    for fault in found:
        print(fault)
    print(f"{len(files)} headers, {len(lists['HEADERS'])} components, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
