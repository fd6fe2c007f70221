#!/usr/bin/env python3
"""Runs of several processes that fail, or are killed and go on.

usage: runs_that_end.py <program> <number of kills> <mpirun and its words...>

A rank that throws ends all others, with its sentence and an exit status; ranks that start in different
ways are refused by name, and a folder of another run by all of them; a run of which any rank is killed at any moment goes on, with another number
of ranks too, and with the same number comes to the bits of a run that nobody disturbed.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

# A run takes seconds; one that hangs is a fault.
LIMIT = 120


def command(words, program, ranks, *arguments):
    return [*words, "-n", str(ranks), program, *arguments]


def ended(words, program, ranks, *arguments):
    """Status and output of a run, or a fault where it hangs."""
    run = subprocess.run(command(words, program, ranks, *arguments), capture_output=True, text=True,
                         timeout=LIMIT)
    return run.returncode, run.stdout + run.stderr


def processes_of(program, folder):
    """The process of each rank of a run in a folder."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[:1] == [program] and folder in words:
            found.append(int(entry.name))
    return found


def killed(words, program, ranks, folder, after):
    """Starts a run and kills one of its ranks; whether it was still running."""
    run = subprocess.Popen(command(words, program, ranks, "train", folder),
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    alive = processes_of(program, folder)
    if alive:
        os.kill(random.choice(alive), signal.SIGKILL)
    run.wait(timeout=LIMIT)
    return bool(alive) and run.returncode != 0


def faults_of_failures(words, program):
    for ranks in (2, 3):
        status, output = ended(words, program, ranks, "fail")
        if status == 0 or "out of paper on the last rank" not in output:
            yield f"a rank of {ranks} that throws: status {status}, said\n{output}"
        status, output = ended(words, program, ranks, "differ")
        if status == 0 or "seed: expected the same on all ranks: 7 as on rank 0, got 8" not in output:
            yield f"{ranks} ranks of two seeds: status {status}, said\n{output}"


def faults_of_folders(words, program):
    for ranks in (1, 3):
        with tempfile.TemporaryDirectory() as folder:
            status, output = ended(words, program, ranks, "begin", folder)
            if status != 0:
                yield f"{ranks} ranks in an empty folder: status {status}, said\n{output}"
            status, output = ended(words, program, ranks, "begin", folder)
            if status == 0 or "epoch 2 of another run" not in output:
                yield f"{ranks} ranks in another run's folder: status {status}, said\n{output}"


def faults_of_kills(words, program, kills):
    with tempfile.TemporaryDirectory() as undisturbed:
        started = time.perf_counter()
        status, whole = ended(words, program, 3, "train", undisturbed)
        seconds = time.perf_counter() - started
    if status != 0:
        yield f"an undisturbed run: status {status}, said\n{whole}"
        return
    done = 0
    for attempt in range(8 * kills):
        if done == kills:
            return
        with tempfile.TemporaryDirectory() as folder:
            if not killed(words, program, 3, folder, random.uniform(0.2, 1) * seconds):
                continue
            done += 1
            status, output = ended(words, program, 3, "train", folder)
            if status != 0 or output != whole:
                yield f"killed and gone on with: status {status}, {output!r} and not {whole!r}"
    if done < kills:
        yield f"only {done} of {kills} runs could be killed"


def main():
    program, kills, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    faults = [*faults_of_failures(words, program), *faults_of_folders(words, program),
              *faults_of_kills(words, program, kills)]
    for fault in faults:
        print(fault)
    print(f"{kills} kills, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
