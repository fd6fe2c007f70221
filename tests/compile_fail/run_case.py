"""One bad composition: its control compiles, and it is refused with its sentence.

usage: run_case.py <case.cpp> <compiler> <flags...>

The case's first line is `// expect: <sentence>`.
"""

import pathlib
import subprocess
import sys

MARK = "// expect:"


def expected_sentence(case):
    first = case.read_text(encoding="utf-8").partition("\n")[0]
    sentence = first.removeprefix(MARK).strip() if first.startswith(MARK) else ""
    if not sentence:
        raise ValueError(f"{case}: the first line is not '{MARK} <sentence>'")
    return sentence


def compiled(command, case, *more):
    """Whether the case compiles, and what the compiler said."""
    run = subprocess.run(
        [*command, *more, "-fsyntax-only", str(case)], capture_output=True, text=True
    )
    return run.returncode == 0, run.stdout + run.stderr


def fault(case, command):
    """What is wrong with the case, or None."""
    sentence = expected_sentence(case)
    accepted, said = compiled(command, case, "-DPOSITIVE_CONTROL")
    if not accepted:
        return f"the control does not compile:\n{said}"
    accepted, said = compiled(command, case)
    if accepted:
        return "it compiles, but should be refused"
    errors = [line for line in said.splitlines() if "error:" in line]
    if not any(sentence in line for line in errors):
        return f"no error line holds '{sentence}':\n{said}"
    return None


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    case = pathlib.Path(arguments[0])
    found = fault(case, arguments[1:])
    print(f"{case.name}: {found or 'refused with its sentence'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
