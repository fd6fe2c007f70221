#!/usr/bin/env python3
"""Tests of soak.py on small programs: one that stays as it is, and some that grow."""

import pathlib
import sys
import tempfile

import soak

PROGRAM = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(parents=True)
kept, block = [], bytearray(8 << 20)
with open(folder / "run.jsonl", "w") as lines:
    for epoch in range(1, 301):
        checkpoint = folder / "checkpoints" / f"epoch-{0 if GROWS != 'checkpoints' else epoch // 10}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state").write_text("of an epoch" * (1 if GROWS != "bytes" else epoch))
        if GROWS == "memory": kept.append(bytearray(100_000))
        if GROWS == "pictures" and epoch > 150: (folder / f"{epoch}.png").write_text("")
        if GROWS == "files": kept.append(open(folder / "run.jsonl"))
        padding = "" if GROWS != "records" else " " * epoch
        lines.write('{"kind":"epoch","epoch":%d,"padding":"%s"}\\n' % (epoch, padding))
        lines.flush()
        time.sleep(0.01)
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
    soak.INTERVAL = 0.02
    assert faults_of("") == []
    for grows, fault in WORDS.items():
        assert fault in faults_of(grows), grows
    print("soak.py tells a run that stays as it is from one that grows")


if __name__ == "__main__":
    main()
