#!/usr/bin/env python3
"""What finetune does with the folder of a run.

usage: folders_of_runs.py <program>

A second run is refused, with the remedies, and touches nothing; a run is resumed, unless its settings
would give its checkpoints another meaning; from its run.json alone the same is run again, to the same
bits; and with --anew another takes its place.
"""

import fcntl
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
LIMIT = 600


def ended(folder, *words):
    """Status and output of a run."""
    run = subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    return run.returncode, run.stdout + run.stderr


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def epochs_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["epoch"] for line in lines if line["kind"] == "epoch"]


def settings_of(path):
    return {name: value for name, value in json.loads(path.read_text())["settings"].items()
            if name != "output"}


def faults(folder):
    one, two = folder / "one", folder / "two"

    def done(*words):
        status, output = ended(folder, *words)
        if status != 0:
            yield f"{' '.join(words)}: status {status}, said\n{output}"

    def refused(part, *words):
        before = contents(one)
        status, output = ended(folder, *words)
        if status == 0 or part not in output:
            yield f"{' '.join(words)}: status {status}, expected {part}, said\n{output}"
        if contents(one) != before:
            yield f"{' '.join(words)}: was refused, and changed the folder"

    tiny = ["--tiny", "--threads", "1", "--learning-rate", "1e-2", "--output", "one"]
    yield from done(*tiny, "--epochs", "1")
    record = json.loads((one / "run.json").read_text())
    for name, value in {"learning-rate": 0.01, "group": 4, "kl": 1e-4, "dtype": "float32"}.items():
        if record["settings"].get(name) != value:
            yield f"run.json: {name} is {record['settings'].get(name)} and not {value}"

    yield from refused("--resume goes on from them, --anew replaces them", *tiny)
    yield from refused("--alpha: expected 8", *tiny, "--resume", "--alpha", "1")
    yield from refused("--method: expected \"nft\"", *tiny, "--resume", "--method", "grpo")
    with open(one / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield from refused("no other program is at work in", *tiny, "--resume")
    (one / "run.json").write_text(json.dumps({**record, "run": record["run"] + 1}))
    yield from refused("those of another", *tiny, "--resume")
    (one / "run.json").write_text(json.dumps(record))

    yield from done(*tiny, "--epochs", "2", "--resume")
    if epochs_of(one / "run.jsonl") != [1, 2]:
        yield f"resumed: epochs {epochs_of(one / 'run.jsonl')}"
    yield from done("--again", "one/run.json", "--output", "two")
    if settings_of(one / "run.json") != settings_of(two / "run.json"):
        yield "run again: other settings"
    if contents(one / "adapter") != contents(two / "adapter"):
        yield "run again: another adapter"

    # Another base in the place of the first.
    shutil.copytree(one / "tiny-model", folder / "base")
    small = ("--model base --output four --threads 1 --dtype float32 --t5-tokens 20 --group 2 --size 32 "
             "--prompts-per-epoch 2 --steps 2 --rank 4 --evaluation-images 2 --evaluation-steps 2").split()
    yield from done(*small, "--epochs", "1")
    weights = next((folder / "base" / "transformer").glob("*.safetensors"))
    bits = weights.read_bytes()
    weights.write_bytes(bits[:-1] + bytes([bits[-1] ^ 1]))
    status, output = ended(folder, *small, "--epochs", "2", "--resume")
    if status == 0 or "--model: expected what the run" not in output:
        yield f"another base: status {status}, said\n{output}"
    weights.write_bytes(bits)
    yield from done(*small, "--epochs", "2", "--resume")

    # Of FLUX.1 the defaults of each method are its own.
    fast = ["--tiny-flux", "--method", "grpo-fast", "--epochs", "1", "--threads", "1"]
    yield from done(*fast, "--output", "fast")
    yield from done("--again", "fast/run.json", "--output", "fast again")
    recorded = settings_of(folder / "fast" / "run.json")
    for name, value in {"kl": 0, "sde": "cps", "noise-level": 0.8, "clip-range": 1e-5, "window": 3,
                        "alpha": 8, "average-every": 1}.items():
        if recorded.get(name) != value:
            yield f"grpo-fast of FLUX.1: {name} is {recorded.get(name)} and not {value}"
    if contents(folder / "fast" / "adapter") != contents(folder / "fast again" / "adapter"):
        yield "grpo-fast run again: another adapter"

    yield from done(*tiny, "--epochs", "1", "--anew")
    left = [path.name for path in (one / "checkpoints").iterdir()]
    if left != ["epoch-00000001"]:
        yield f"anew: {left} are left"


def main():
    with tempfile.TemporaryDirectory() as folder:
        found = list(faults(pathlib.Path(folder)))
    for fault in found:
        print(fault)
    print(f"{len(found)} faults")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
