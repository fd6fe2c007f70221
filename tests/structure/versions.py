#!/usr/bin/env python3
"""Holds what has to repeat the version of include/contraflow/version.hpp to it: vcpkg's port, which
cannot compute it.

Usage: versions.py ROOT
"""

import json
import pathlib
import re
import sys


def main(root):
    header = (root / "include/contraflow/version.hpp").read_text()
    version = ".".join(re.findall(r"define CONTRAFLOW_VERSION_[A-Z]+ (\d+)", header))
    port = json.loads((root / "cmake/vcpkg/contraflow/vcpkg.json").read_text())["version-semver"]
    if port != version:
        print(f"cmake/vcpkg/contraflow/vcpkg.json says {port}, version.hpp {version}")
    return port != version


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
