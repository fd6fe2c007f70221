#!/usr/bin/env python3
"""Tests of soak.py on small programs: one that stays as it is, and some that grow."""

import concurrent.futures
import pathlib
import sys
import tempfile

import soak

# Its epochs are long enough to be looked at on a busy machine.
PROGRAM = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True)
kept, block = [], bytearray(8 << 20)
with open(folder / "run.jsonl", "w") as lines:
    for epoch in range(1, 61):
        checkpoint = folder / "checkpoints" / f"epoch-{0 if GROWS != 'checkpoints' else epoch // 6}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state").write_text("of an epoch" * (1 if GROWS != "bytes" else epoch))
        if GROWS == "memory": kept.append(bytearray(500_000))
        if GROWS == "pictures" and epoch > 30: (folder / f"{epoch}.png").write_text("")
        if GROWS == "files": kept.append(open(folder / "run.jsonl"))
        padding = "" if GROWS != "records" else " " * epoch
        lines.write('{"kind":"epoch","epoch":%d,"padding":"%s"}\\n' % (epoch, padding))
        lines.flush()
        time.sleep(0.25)
"""
WORDS = {"memory": "own memory grows", "files": "open files grows", "checkpoints": "checkpoints grows",
         "bytes": "bytes of checkpoints grows", "records": "other bytes an epoch grows",
         "pictures": "other files an epoch grows"}


def faults_of(grows):
    with tempfile.TemporaryDirectory() as place:
        program = pathlib.Path(place) / "program.py"
        program.write_text(f"GROWS = {grows!r}\n" + PROGRAM)
        return soak.faults_of([sys.executable, str(program)], pathlib.Path(place))


def main():
    soak.INTERVAL = 0.05
    with concurrent.futures.ThreadPoolExecutor(1 + len(WORDS)) as runs:
        of_none, *of_each = runs.map(faults_of, ["", *WORDS])
    assert of_none == [], of_none
    for (grows, fault), faults in zip(WORDS.items(), of_each):
        assert fault in faults, (grows, faults)
    print("soak.py tells a run that stays as it is from one that grows")


if __name__ == "__main__":
    main()
