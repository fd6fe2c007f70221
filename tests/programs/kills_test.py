#!/usr/bin/env python3
"""Tests of kills.py on a small program that goes on well, and on one that forgets what it had."""

import pathlib
import sys
import tempfile

import kills

PROGRAM = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
state = folder / "checkpoints" / "state"
state.parent.mkdir(parents=True, exist_ok=True)
done, total = json.loads(state.read_text()) if "--resume" in sys.argv and state.exists() else (0, 0)
if FORGETS: total = 0
for step in range(done, 10):
    time.sleep(0.05)
    total += step
    (state.parent / "new").write_text(json.dumps([step + 1, total]))
    (state.parent / "new").rename(state)
(folder / "summary.json").write_text(json.dumps({"total": total, "seconds": time.time()}))
"""


def faults_of(forgets):
    with tempfile.TemporaryDirectory() as place:
        program = pathlib.Path(place) / "program.py"
        program.write_text(PROGRAM.replace("FORGETS", str(forgets)))
        return list(kills.faults_of([sys.executable, str(program)], 4, pathlib.Path(place)))


def main():
    assert faults_of(forgets=False) == []
    assert any("summary.json" in fault for fault in faults_of(forgets=True))
    print("kills.py tells a program that goes on from one that forgets")


if __name__ == "__main__":
    main()
