#!/usr/bin/env python3
"""Programs that are killed at any moment and go on to the results of a run that nobody disturbed.

usage: kills.py <program and its words...> --kills <number>

The program is started with `--output <folder>`, killed, started again with `--resume`, and killed
again, until it ends by itself; then its results are compared, and another run is begun until there
were as many kills as asked for. Weights, pictures and numbers must have the same bits; seconds are
nobody's results.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

# A run takes seconds; one that hangs is a fault.
LIMIT = 600


def start(words, folder, *more):
    return subprocess.Popen([*words, "--output", str(folder), *more], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace")


def without_seconds(value, columns=None):
    """A value of JSON without what took time."""
    if isinstance(value, dict):
        columns = value["curve"] if is_names(value.get("curve")) else columns
        return {name: without_seconds(one, columns) for name, one in value.items()
                if "seconds" not in name}
    if isinstance(value, list):
        is_row = columns is not None and len(value) == len(columns) and value != columns
        kept = [one for i, one in enumerate(value) if not (is_row and columns[i] == "seconds")]
        return [without_seconds(one, columns) for one in kept]
    return value


def is_names(value):
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def epochs_of(text):
    """The lines of epochs; that a run was resumed, and when, stands in the others."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [without_seconds(line) for line in lines if line["kind"] == "epoch"]


def results_in(folder):
    """What a run has left: contents by the name of the file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or "checkpoints" in path.relative_to(folder).parts:
            continue
        if path.suffix in (".safetensors", ".png"):
            found[name] = path.read_bytes()
        elif path.suffix == ".json":
            found[name] = without_seconds(json.loads(path.read_text()))
            if path.name == "run.json":
                found[name].pop("run", None)  # each run has a number of its own
        elif path.suffix == ".jsonl":
            found[name] = epochs_of(path.read_text())
    return found


def run_through_kills(words, folder, seconds, kills):
    """Kills a run, and lets it go on, until it ends by itself; status, what it said, and kills."""
    done = 0
    while True:
        run = start(words, folder, *(["--resume"] if done else []))
        try:
            # Behind the last kill it may end.
            wait = random.uniform(0.1, 1) * seconds if done < kills else LIMIT
            said, _ = run.communicate(timeout=wait)
            return run.returncode, said, done
        except subprocess.TimeoutExpired:
            run.kill()
            try:
                run.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                pass  # a process that MPI has started for it holds the pipe
        if done >= kills:
            return None, f"no end within {LIMIT} s", done
        done += 1


def faults_of(words, kills, place):
    # All runs have the same folder: its path stands in some of what is written.
    folder = place / "run"
    began = time.perf_counter()
    run = start(words, folder)
    said, _ = run.communicate(timeout=LIMIT)
    seconds = time.perf_counter() - began
    if run.returncode != 0:
        yield f"an undisturbed run: status {run.returncode}, said\n{said}"
        return
    expected = results_in(folder)
    if not expected:
        yield "an undisturbed run left no results"
        return
    done = attempts = 0
    while done < kills:
        attempts += 1
        if attempts > 8 * kills:
            yield f"only {done} of {kills} runs could be killed"
            return
        shutil.rmtree(folder, ignore_errors=True)
        status, said, more = run_through_kills(words, folder, seconds, min(kills - done, 5))
        done += more
        if status != 0:
            yield f"killed {more} times: status {status}, said\n{said}"
            continue
        found = results_in(folder)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                yield f"killed {more} times: {name} is not that of an undisturbed run"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000)
    options, words = parser.parse_known_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as place:
        faults = list(faults_of(words, options.kills, pathlib.Path(place)))
    for fault in faults:
        print(fault)
    print(f"{options.kills} kills of seed {options.seed}, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
