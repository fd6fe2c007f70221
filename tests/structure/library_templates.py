"""No header calls a constrained template that is compiled into LibTorch.

clang 18 and later give such a template another name in the library than g++ and clang before it, with
which LibTorch is built: the call compiles and does not link. `at::Tensor::const_data_ptr<T>()` is the
one there is; contraflow::data_of (core/tensor.hpp) stands for it.

usage: library_templates.py <folder>...
"""

import pathlib
import re
import sys

CALL = re.compile(r"\bconst_data_ptr\s*<")
SUFFIXES = (".hpp", ".cuh", ".cpp", ".cu")


def faults(folder):
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if CALL.search(line.partition("//")[0]):
                yield f"{path}:{number}: const_data_ptr<T>(): use contraflow::data_of<const T>()"


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    found = [fault for folder in arguments for fault in faults(pathlib.Path(folder))]
    for fault in found:
        print(fault)
    print(f"{len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
