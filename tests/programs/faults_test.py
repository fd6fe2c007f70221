#!/usr/bin/env python3
"""Tests of faults.py on a small program that tells of faults and goes on well, and on worse ones.

usage: faults_test.py <faulty.so>
"""

import argparse
import pathlib
import sys
import tempfile

import faults

PROGRAM = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
if (folder.parent / "done").exists(): sys.exit(0)
def write(name, data):
    partial = folder / ("." + name)
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while data:
        data = data[os.write(file, data):]
    os.fsync(file)
    os.rename(partial, folder / name)
try:
    folder.mkdir(exist_ok=True)
    write("weights.safetensors", b"1234567890")
    write("picture.png", b"1234567890")
except OSError as error:
    ON_FAULT
"""
GOOD = 'sys.exit(f"expected a good disk, got {error}")'
SILENT = "sys.exit(1)"
CARELESS = "(folder.parent / 'done').touch()"


def faults_of(layer, on_fault, kinds):
    with tempfile.TemporaryDirectory() as place:
        program = pathlib.Path(place) / "program.py"
        program.write_text(PROGRAM.replace("ON_FAULT", on_fault))
        options = argparse.Namespace(layer=layer, every=1, some=0, kinds=kinds, progress=False)
        return faults.all_faults([sys.executable, str(program)], options, pathlib.Path(place))


def main():
    layer = pathlib.Path(sys.argv[1]).resolve()
    found, tries = faults_of(layer, GOOD, faults.KINDS)
    # A folder, and twice a file that is made, written, flushed and named.
    assert (found, tries) == ([], 9 * len(faults.KINDS)), (found, tries)
    found, _ = faults_of(layer, SILENT, ["fail"])
    assert len(found) == 9 and "fail at call 1: status 1" in found[0], found
    found, _ = faults_of(layer, CARELESS, ["full"])
    assert "weights.safetensors is not that of an undisturbed run" in "".join(found), found
    print("faults.py tells a program that ends with a sentence and goes on from others")


if __name__ == "__main__":
    main()
