"""Bad compositions: each control compiles, and each case is refused with its sentences.

usage: run_cases.py <folder of the cases> <compiler> <flags...>

A case begins with one or more lines `// expect: <sentence>`. All cases are compiled in one process,
each in a namespace of its own, since parsing LibTorch takes longer than all of them: once with
POSITIVE_CONTROL defined, where every one must compile, and once without, where the sentences are
looked for in the `error:` lines that belong to the case. What one case does to another is never
taken for a result: a case whose control fails or whose sentence is not seen is tried again with the
others like it, and alone at last. Only what it does alone counts against it.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

MARK = "// expect:"
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)
ENTIRE = ["-fsyntax-only", "-ftemplate-backtrace-limit=0"]

DIAGNOSTIC = re.compile(r"^(.*?):\d+:(?:\d+:)? (fatal error|error|warning|note): ")
INCLUDED_FROM = re.compile(r"^(In file included from |\s+from )")
# What g++ writes above an error to say where it comes from.
LEADING = re.compile(r"^[^\s|].*(: (In |At global scope)|:\s+(required|recursively required|in ))")


def expected_sentences(case):
    sentences = []
    for line in case.read_text(encoding="utf-8").splitlines():
        if not line.startswith(MARK):
            break
        sentences.append(line.removeprefix(MARK).strip())
    if not sentences or not all(sentences):
        raise ValueError(f"{case}: the first line is not '{MARK} <sentence>'")
    return sentences


class Compiler:
    """A compiler with its flags; counts its processes."""

    def __init__(self, command):
        said = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True)
        self.clang = "clang" in said.stdout
        every = "-ferror-limit=0" if self.clang else "-fmax-errors=0"
        self.command = [*command, *ENTIRE, every]
        self.processes = 0

    def compile(self, source, control):
        """Whether it compiles, and what the compiler said."""
        self.processes += 1
        define = ["-DPOSITIVE_CONTROL"] if control else []
        run = subprocess.run(
            [*self.command, *define, str(source)],
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"LC_ALL": "C"},
        )
        return run.returncode == 0, run.stdout + run.stderr


def together(cases):
    """One source of many cases. Their includes come first: within a namespace they are no-ops."""
    included = {}
    for case in cases:
        included |= dict.fromkeys(INCLUDE.findall(case.read_text(encoding="utf-8")))
    lines = [f"#include {name}" for name in included]
    for number, case in enumerate(cases):
        lines += [f"namespace case_{number} {{", f'#include "{case}"', "}"]
    return "\n".join(lines) + "\n"


def shares(case):
    """Whether the case can be compiled with others: a file beside it is found from it alone."""
    return '"' not in "".join(INCLUDE.findall(case.read_text(encoding="utf-8")))


def groups_of_clang(said):
    """Each error line with the lines that tell where it comes from: its notes, after it."""
    error, lines = None, []
    for line in said.splitlines():
        found = DIAGNOSTIC.match(line)
        if INCLUDED_FROM.match(line) or (found and found[2] != "note"):
            if error:
                yield error, lines
            error, lines = None, []
        if found and "error" in found[2]:
            error = line
        if found or INCLUDED_FROM.match(line):
            lines.append(line)
    if error:
        yield error, lines


def groups_of_gnu(said):
    """Likewise of g++, which says it before, once for several errors of one instantiation."""
    context, told = [], True
    for line in said.splitlines():
        found = DIAGNOSTIC.match(line)
        if found:
            told = True
            if "error" in found[2]:
                yield line, [*context, line]
        elif LEADING.match(line) or INCLUDED_FROM.match(line):
            if told:
                context, told = [], False
            context.append(line)


def errors_of(cases, said, clang):
    """The error lines of each case; those that belong to none or to several are left out."""
    names = {str(case): [] for case in cases}
    for error, lines in (groups_of_clang if clang else groups_of_gnu)(said):
        owners = {name for name in names for line in lines if f"{name}:" in line}
        if len(owners) == 1:
            names[owners.pop()].append(error)
    return {case: names[str(case)] for case in cases}


def missing(case, errors):
    return [
        sentence
        for sentence in expected_sentences(case)
        if not any(sentence in line for line in errors)
    ]


def controls_to_try_alone(cases, compiler, source):
    """The controls that cannot be compiled with the others; the others have compiled."""
    sharing = [case for case in cases if shares(case)]
    while len(sharing) > 1:
        source.write_text(together(sharing), encoding="utf-8")
        accepted, said = compiler.compile(source, control=True)
        if accepted:
            return [case for case in cases if case not in sharing]
        errors = errors_of(sharing, said, compiler.clang)
        if not any(errors.values()):
            break
        sharing = [case for case in sharing if not errors[case]]
    return cases


def controls_that_fail(cases, compiler, source):
    """What the compiler says of each control that does not compile alone, and who was alone."""
    alone = controls_to_try_alone(cases, compiler, source)
    faults = {}
    for case in alone:
        accepted, said = compiler.compile(case, control=True)
        if not accepted:
            faults[case] = f"the control does not compile:\n{said}"
    return faults, alone


def refused_together(cases, compiler, source):
    """The cases that are refused with all their sentences among others."""
    source.write_text(together(cases), encoding="utf-8")
    _, said = compiler.compile(source, control=False)
    errors = errors_of(cases, said, compiler.clang)
    return [case for case in cases if not missing(case, errors[case])]


def fault_alone(case, compiler):
    """What is wrong with a case, or None."""
    accepted, said = compiler.compile(case, control=False)
    if accepted:
        return "it compiles, but should be refused"
    lacking = missing(case, [line for line in said.splitlines() if "error:" in line])
    if lacking:
        return f"no error line holds '{lacking[0]}':\n{said}"
    return None


def cases_not_refused(cases, compiler, source):
    """What is wrong with each case that is not refused with its sentences, and who was alone."""
    alone = list(cases)
    sharing = [case for case in cases if shares(case)]
    while len(sharing) > 1:
        refused = refused_together(sharing, compiler, source)
        alone = [case for case in alone if case not in refused]
        sharing = [case for case in sharing if case not in refused] if refused else []
    found = {case: fault_alone(case, compiler) for case in alone}
    return {case: fault for case, fault in found.items() if fault}, alone


def names_of(cases):
    return ", ".join(case.stem for case in cases) or "none"


def faults(cases, command):
    """What is wrong with each case at fault, and a line about how the cases were compiled."""
    for case in cases:
        expected_sentences(case)
    compiler = Compiler(command)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "cases.cpp"
        controls, controls_alone = controls_that_fail(cases, compiler, source)
        refusals, alone = cases_not_refused(cases, compiler, source)
    told = (
        f"{len(cases)} cases, {compiler.processes} compiler processes;"
        f" tried alone: {names_of(alone)}; controls alone: {names_of(controls_alone)}"
    )
    return refusals | controls, told


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    cases = sorted(pathlib.Path(arguments[0]).resolve().glob("*.cpp"))
    if not cases:
        sys.exit(f"{arguments[0]}: no cases")
    found, told = faults(cases, arguments[1:])
    for case in cases:
        print(f"{case.name}: {found.get(case, 'refused with its sentence')}")
    print(f"{told}; {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
