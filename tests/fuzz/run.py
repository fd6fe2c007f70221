#!/usr/bin/env python3
"""Runs the fuzzing programs from their corpora, and ends with a table: runs, time, findings.

    cmake -S . -B build-fuzz -G Ninja -D CMAKE_CXX_COMPILER=clang++ -D CONTRAFLOW_FUZZ=ON
    cmake --build build-fuzz --target fuzz
    tests/fuzz/run.py build-fuzz/tests/fuzz/fuzz --runs 1000000

What a program finds worth keeping goes into a folder below --output, never into the corpora of the
repository. A finding is there too, as <name>/crash-..., timeout-..., oom-... or leak-...; when it is
mended it belongs into corpus/<name>, which tests replay. Answers 1 where there is a finding.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# A model of SentencePiece with a map of characters has at least 1024 bytes of it.
MAX_LEN = {"t5_files": 8192}
FINDINGS = ("crash-*", "timeout-*", "oom-*", "leak-*")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, help="the program that is all of them")
    parser.add_argument("names", nargs="*", help="such as safetensors; default: all")
    parser.add_argument("--runs", type=int, default=100_000, help="of each program")
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-len", type=int, help="bytes of an input; default: what a program needs")
    parser.add_argument("--output", type=pathlib.Path, help="default: out, beside the program")
    options = parser.parse_args()
    options.output = (options.output or options.program.parent / "out").resolve()
    return options


def findings_in(output):
    return {path for pattern in FINDINGS for path in output.glob(pattern)}


def command(program, name, output, options):
    line = [program.resolve(), output / "corpus", HERE / "corpus" / name]
    dictionary = HERE / "dictionaries" / name
    if dictionary.exists():
        line.append(f"-dict={dictionary}")
    return [str(word) for word in line] + [
        f"-runs={options.runs}", f"-seed={options.seed}",
        f"-max_len={options.max_len or MAX_LEN.get(name, 1024)}", "-rss_limit_mb=2048",
        "-timeout=10", "-print_final_stats=1", f"-artifact_prefix={output}/"]


def run(name, options):
    output = options.output / name
    (output / "corpus").mkdir(parents=True, exist_ok=True)
    before = findings_in(output)
    # What LibTorch keeps until the process ends is not ours to report.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "CONTRAFLOW_FUZZ_PROGRAM": name}
    began = time.monotonic()
    with open(output / "log", "w") as log:
        code = subprocess.run(command(options.program, name, output, options), env=environment,
                              stdout=log, stderr=log).returncode
    seconds = time.monotonic() - began
    text = (output / "log").read_text(errors="replace")
    made = re.search(r"stat::number_of_executed_units: *(\d+)", text)
    return name, int(made.group(1)) if made else 0, seconds, code, sorted(findings_in(output) - before)


def main():
    options = arguments()
    names = options.names or sorted(folder.name for folder in (HERE / "corpus").iterdir())
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda name: run(name, options), names))
    print(f"{'program':<20}{'runs':>10}{'seconds':>9}  findings")
    for name, runs, seconds, code, findings in results:
        said = ", ".join(path.name for path in findings) or ("none" if code == 0 else f"answered {code}")
        print(f"{name:<20}{runs:>10}{seconds:>9.0f}  {said}")
    return any(code != 0 or findings for *_, code, findings in results)


if __name__ == "__main__":
    sys.exit(main())
