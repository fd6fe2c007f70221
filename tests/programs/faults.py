#!/usr/bin/env python3
"""A program whose disk fails at any moment, and which goes on to the results of a run of a good one.

usage: faults.py --layer <faulty.so> [--every N | --some N] [--kinds fail,half,...] <program and its words...>

A run is made with each fault of faulty.cpp at calls of its, and must end with a sentence, or go on
after it; then it is resumed without faults. Weights and pictures must have the bits of a run that
nothing disturbed, other than files that the run has warned of.
"""

import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import kills

KINDS = ["fail", "half", "full", "kill", "term", "int"]


def run(words, folder, layer, *more, at=0, kind=""):
    environment = os.environ | {
        "FAULTS_BELOW": str(folder), "FAULTS_AT": str(at), "FAULTS_KIND": kind,
        "FAULTS_COUNT": str(folder) + ".count", "LD_PRELOAD": str(layer)}
    try:
        return subprocess.run([*words, "--output", str(folder), *more], env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=kills.LIMIT)
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(late.cmd, None, "no end")


def results_of(folder):
    return {name: value for name, value in kills.results_in(folder).items()
            if pathlib.Path(name).suffix in (".safetensors", ".png")}


def is_civil(ended, kind):
    """Whether a run that met a fault ended as a program should: by itself, and with a sentence."""
    if kind == "kill":
        return ended.returncode in (0, -9)
    if kind in ("term", "int"):
        # Before the program listens, a signal ends it.
        return ended.returncode is not None and ended.returncode in (0, 1, 130, 143, -15, -2)
    if ended.returncode not in (0, 1) or "terminate called" in ended.stdout:
        return False
    return ended.returncode == 0 or "expected" in ended.stdout


def faults_of(words, layer, place, kind, at, expected):
    name = f"{kind} at call {at}"
    # All runs have a folder of the same path: it stands in some of what is written.
    folder = place / "run"
    shutil.rmtree(folder, ignore_errors=True)
    met = run(words, folder, layer, at=at, kind=kind)
    if not is_civil(met, kind):
        yield f"{name}: status {met.returncode}, said\n{met.stdout}"
    after = run(words, folder, layer, "--resume")
    if after.returncode != 0:
        yield f"{name}: afterwards status {after.returncode}, said\n{after.stdout}"
        return
    found = results_of(folder)
    for file in sorted(expected.keys() | found.keys()):
        # An adapter of an epoch is several files.
        thing = folder / "/".join(pathlib.Path(file).parts[:2])
        was_told = f"warning: the run goes on: {thing}" in met.stdout
        if expected.get(file) != found.get(file) and not was_told:
            yield f"{name}: {file} is not that of an undisturbed run; said\n{met.stdout}"


def chosen(calls, options):
    if options.every:
        return [(kind, at) for at in range(1, calls + 1, options.every) for kind in options.kinds]
    return [(random.choice(options.kinds), random.randint(1, calls)) for _ in range(options.some)]


def all_faults(words, options, place):
    folder = place / "run"
    undisturbed = run(words, folder, options.layer)
    if undisturbed.returncode != 0:
        return [f"an undisturbed run: status {undisturbed.returncode}, said\n{undisturbed.stdout}"], 0
    expected = results_of(folder)
    calls = int(pathlib.Path(str(folder) + ".count").read_text())
    found = [] if expected and calls else ["an undisturbed run left no results"]
    tries = chosen(calls, options)
    began = time.monotonic()
    for done, (kind, at) in enumerate(tries, 1):
        found += faults_of(words, options.layer, place, kind, at, expected)
        if options.progress:
            seconds = time.monotonic() - began
            print(f"{done} of {len(tries)}, {seconds:.0f} s, {len(found)} faults", flush=True)
    return found, len(tries)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layer", type=pathlib.Path, required=True)
    parser.add_argument("--every", type=int, default=0, help="each N-th call, with each kind")
    parser.add_argument("--some", type=int, default=12, help="N calls and kinds, drawn")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000)
    options, words = parser.parse_known_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as place:
        found, tries = all_faults(words, options, pathlib.Path(place))
    for fault in found:
        print(fault)
    print(f"{tries} faults of the system, seed {options.seed}: {len(found)} faults of the program")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
