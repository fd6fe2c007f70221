#!/usr/bin/env python3
"""A long run that neither grows nor slows down.

usage: soak.py [--figures FILE] <program and its words...>

The program is started with `--output <folder>`, where it writes `run.jsonl` and its checkpoints, and is
looked at until it ends: what it has in memory, files, threads, time. At the end a table compares what
there was in the second tenth of its epochs with the last one, and what an epoch takes in the two halves
behind the first tenth. Answers 1 where a bound does not hold, or the program fails; times are only told,
since a machine is shared. Of memory, what the process has taken for itself counts: pages of files come
and go with the machine.

    tests/programs/soak.py build/tests/programs/ring_run --epochs 100000
    tests/programs/soak.py build/examples/finetune --tiny --epochs 2000 --save-every 20 --evaluate-every 20
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

INTERVAL = 0.1  # seconds between two looks
FEWEST = 5  # looks at a tenth
TICKS = os.sysconf("SC_CLK_TCK")
# What may be more at the end, as a share of what was before. The numbers in records have more digits at
# the end, and pictures are not of one size.
BOUNDS = {"own memory": 0.01, "open files": 0, "threads": 0, "checkpoints": 0, "bytes of checkpoints": 0.01,
          "other files an epoch": 0.1, "other bytes an epoch": 0.1}


def memory_of(process):
    """Bytes by the names that the system has for them."""
    text = pathlib.Path(f"/proc/{process}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|RssAnon|RssShmem|Threads):\s+(\d+)", text, re.MULTILINE))
    return {name: int(value) for name, value in found.items()}


def processor_seconds_of(process):
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def last_epoch_in(path):
    """Of a file of JSON lines, whose last line may be half written."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            lines = file.read().split(b"\n")[1:-1]
    except FileNotFoundError:
        return 0
    epochs = (json.loads(line) for line in reversed(lines) if line.startswith(b'{"kind":"epoch"'))
    return next((line["epoch"] for line in epochs), 0)


def files_in(folder):
    """Sizes of files by path; one that goes meanwhile is left out."""
    found = {}
    for above, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(above, name)
            try:
                found[path] = os.lstat(path).st_size
            except FileNotFoundError:
                pass
    return found


def look_at(process, folder):
    """What a run is at this moment, or nothing where it has ended, or gone on while it was looked at."""
    epoch = last_epoch_in(folder / "run.jsonl")
    try:
        memory, seconds = memory_of(process), processor_seconds_of(process)
        descriptors = len(os.listdir(f"/proc/{process}/fd"))
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    files = files_in(folder)
    if "RssAnon" not in memory or last_epoch_in(folder / "run.jsonl") != epoch:
        return None
    in_checkpoints = {path: size for path, size in files.items() if "/checkpoints/" in path}
    checkpoints = {pathlib.Path(path).parent for path in in_checkpoints}
    return {"epoch": epoch, "time": time.monotonic(), "processor": seconds,
            "own memory": (memory["RssAnon"] + memory["RssShmem"]) / 1024,
            "resident memory": memory["VmRSS"] / 1024, "open files": descriptors,
            "threads": memory["Threads"], "checkpoints": len(checkpoints),
            "bytes of checkpoints": sum(in_checkpoints.values()),
            "other files": len(files) - len(in_checkpoints),
            "other bytes": sum(files.values()) - sum(in_checkpoints.values())}


def watched(words, folder):
    """What a run was, from time to time; its status; what it said."""
    looks = []
    with open(folder.parent / "said", "w+") as said:
        run = subprocess.Popen([*words, "--output", str(folder)], stdout=said, stderr=said)
        while run.poll() is None:
            look = look_at(run.pid, folder)
            if look:
                looks.append(look)
            time.sleep(INTERVAL)
        said.seek(0)
        return looks, run.returncode, said.read()


def part(looks, begin, end):
    """The looks at a part of all epochs, between two shares of them."""
    epochs = looks[-1]["epoch"]
    return [look for look in looks if begin * epochs <= look["epoch"] <= end * epochs]


def there(looks):
    """What there was, as a rule."""
    return {name: statistics.median(look[name] for look in looks)
            for name in ("own memory", "resident memory", "open files", "threads", "checkpoints",
                         "bytes of checkpoints")}


def taken(looks):
    """What an epoch took: slopes, so that a file every few epochs counts alike wherever a part begins."""
    epochs = [look["epoch"] for look in looks]
    by_name = {"other files an epoch": ("other files", 1), "other bytes an epoch": ("other bytes", 1),
               "processor ms an epoch": ("processor", 1000), "wall-clock ms an epoch": ("time", 1000)}
    return {name: unit * statistics.linear_regression(epochs, [look[key] for look in looks]).slope
            for name, (key, unit) in by_name.items()}


def rows_of(before, after, slack):
    """Name, before, after, the bound if any, and whether it holds, or is missed by no more than a slack."""
    for name, value in before.items():
        bound = BOUNDS.get(name)
        most = None if bound is None else value * (1 + bound) + slack.get(name, 0)
        yield name, value, after[name], bound, most is None or after[name] <= most


def compared(looks):
    before = there(part(looks, 0.1, 0.2)) | taken(part(looks, 0.1, 0.55))
    after = there(part(looks, 0.9, 1)) | taken(part(looks, 0.55, 1))
    # A file that is there for a moment is no growth.
    return list(rows_of(before, after, {"other files an epoch": 1 / looks[-1]["epoch"]}))


def shown(value):
    return f"{value:.0f}" if value >= 10_000 else f"{value:.4g}"


def told(looks, rows):
    """The table."""
    seconds, most = looks[-1]["time"] - looks[0]["time"], max(look["own memory"] for look in looks)
    yield (f"{looks[-1]['epoch']} epochs in {seconds:.0f} s, {len(looks)} looks; memory in MiB, "
           f"at most {most:.1f} of its own")
    yield f"{'':<24}{'before':>12}{'at the end':>12}{'may be more':>13}  holds"
    for name, before, after, bound, holds in rows:
        allowed, answer = ("", "") if bound is None else (f"{100 * bound:.0f} %", "yes" if holds else "NO")
        yield f"{name:<24}{shown(before):>12}{shown(after):>12}{allowed:>13}  {answer}".rstrip()


def faults_of(words, place, figures=None):
    """What is wrong with a run, after its table has been printed."""
    looks, status, said = watched(words, place / "run")
    if figures:
        figures.write_text("".join(json.dumps(look) + "\n" for look in looks))
    if status != 0:
        return [f"status {status}, said\n{said}"]
    if not looks or looks[-1]["epoch"] < 10 or min(
            len(part(looks, 0.1, 0.2)), len(part(looks, 0.9, 1))) < FEWEST:
        return ["too short a run to be compared"]
    rows = compared(looks)
    print("\n".join(told(looks, rows)))
    return [f"{name} grows" for name, *_, holds in rows if not holds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", type=pathlib.Path, help="file for all looks, a JSON object a line")
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place:
        faults = faults_of(words, pathlib.Path(place), options.figures)
    for fault in faults:
        print(fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
