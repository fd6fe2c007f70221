#!/usr/bin/env python3
"""What a person may type at every option of every program ends in a sentence or in a run.

usage: options.py <program> ... [--patience <seconds>] [--jobs <number>] [--only <option>]

Options and their types are read from `--help`. Each is given what is no value of it: nothing, text for
a number, numbers out of range, no file, a folder for a file, a file for a folder, a place that cannot
be written, an unknown name. What cannot be legal must be refused; what may be legal must end well, be
refused, or still run when patience ends.
"""

import argparse
import concurrent.futures
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# With what a program is quick, where it needs anything.
QUICK = {
    "ablations": ["--quick"],
    "digits": ["--quick"],
    "head_to_head": ["--quick", "--tasks", "ring", "--seeds", "1"],
    "make_random_model": ["--tiny"],
    "reach": ["--quick", "--epochs", "1"],
    "reward_server": ["--self-test"],
    "scenes": ["--epochs", "1", "--prompts", "1", "--group-size", "2"],
    "words": ["--epochs", "1", "--prompts", "1", "--group-size", "2", "--evaluated", "1"],
    "finetune": ["--tiny", "--epochs", "1"],
    "generate": ["--tiny"],
    "solvers": ["--quick"],
}

# Options that name what is there already.
READ = {"--again", "--base", "--check", "--data", "--evaluation-prompts", "--glyphs", "--lora", "--model", "--prompts"}
# Options of texts that may be anything.
FREE = {"--host", "--negative"}
# Programs whose output is a file.
OUTPUT_IS_FILE = {"scenes_pretrain", "words_pretrain"}
# What a tiny model is used instead of.
WITHOUT_TINY = {"--model"}

CRASH = re.compile(r"terminate called|Aborted|Segmentation|Exception raised from|frame #\d|core dumped")
MOST_LINES = 12


def options_of(program):
    """Name and type of each option that takes a value, from the program's help."""
    run = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60)
    if run.returncode != 0:
        raise SystemExit(f"{program} --help: status {run.returncode}")
    return re.findall(r"^\s+(--[a-z0-9-]+) ([A-Z]{2,})\b", run.stdout, re.MULTILINE)


def tries_of(name, kind, folder, is_file_written=False):
    """Values to try, each with whether it must be refused."""
    if kind in ("INT", "UINT"):
        return [("0", False), ("-1", False)]
    if kind == "FLOAT":
        return [("nan", True), ("-1", False)]
    if kind == "ENUM" or name in FREE:
        return [("no-such-name", name not in FREE)]
    if name == "--output":
        wrong = folder if is_file_written else folder / "file"
        return [("/proc/x/y", True), (str(wrong), True), ("", True)]
    if name in READ:
        return [(str(folder / "missing"), True), (str(folder), True), (str(folder / "file"), True)]
    return [("no-such-name", True), ("", True)]


def calls_of(program, folder):
    """Each call as words, and whether it must be refused."""
    name = pathlib.Path(program).name
    options = options_of(program)
    quick = QUICK.get(name, [])
    yield [*quick, "--no-such-option"], True
    seen = set()
    for option, kind in options:
        if kind not in seen:
            # The parser's own work is the same for all options of a type.
            seen.add(kind)
            rest = without(quick, option)
            yield [*rest, option], True
            if kind in ("INT", "UINT", "FLOAT"):
                yield from (([*rest, option, value], True) for value in ("many", ""))
            if kind in ("INT", "UINT"):
                large = ("1e30", "99999999999999999999")
                yield from (([*rest, option, value], True) for value in large)
            if kind == "FLOAT":
                yield from (([*rest, option, value], False) for value in ("0", "1e30"))
        for value, is_refused in tries_of(option, kind, folder, name in OUTPUT_IS_FILE):
            yield [*without(quick, option), option, value], is_refused


def without(words, option):
    """The words without an option and its value."""
    if option in WITHOUT_TINY:
        return []
    if option not in words:
        return words
    at = words.index(option)
    return words[:at] + words[at + 2:]


def environment(place):
    """Of a process for which Open MPI starts no daemon, and which shares no folder with others."""
    return {**os.environ, "OMPI_MCA_ess_singleton_isolated": "1",
            "OMPI_MCA_orte_tmpdir_base": place}


def fault_of(program, words, is_refused, patience):
    """What is wrong with how a call ends; nothing if all is well."""
    with tempfile.TemporaryDirectory() as place:
        run = subprocess.Popen([program, *words], cwd=place, stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace",
                               env=environment(place))
        try:
            out, err = run.communicate(timeout=10 * patience if is_refused else patience)
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            return "was not refused, and runs" if is_refused else None
    if run.returncode < 0:
        return f"ended by signal {-run.returncode}\n{err}"
    if CRASH.search(out + err):
        return f"ended in a crash\n{err}"
    if run.returncode == 0:
        return "was not refused" if is_refused else None
    said = (err if err.strip() else out).strip().splitlines()
    if not said or len(said) > MOST_LINES:
        return f"status {run.returncode}, and said {len(said)} lines\n{err}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--patience", type=float, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        (folder / "file").write_bytes(b"\x89 neither text nor weights \xff\n")
        calls = [(program, words, is_refused) for program in arguments.programs
                 for words, is_refused in calls_of(program, folder)
                 if arguments.only is None or arguments.only in words]
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            faults = list(pool.map(fault_of, *zip(*calls), itertools.repeat(arguments.patience)))
    count = 0
    for (program, words, _), fault in zip(calls, faults):
        if fault is None:
            continue
        count += 1
        print(f"{pathlib.Path(program).name} {' '.join(words)}: {fault}")
    print(f"{len(calls)} calls, {count} faults")
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()
