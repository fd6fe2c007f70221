"""The library as a package of Conan 2: its headers, and its own package of CMake.

    export LibTorch_ROOT=$PWD/.venv/lib/python3.11/site-packages/torch
    conan create cmake/conan

What the library needs is the system's, as for any other build of it, since Conan has no package of
Random123 and none of LibTorch as a Python's wheel. LibTorch is found as docs/pages/getting_started.md
says, when the package is made and again when a program is built with it. The components in the package
are those whose libraries are installed where it is made.
"""

import pathlib
import re

from conan import ConanFile
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy
from conan.tools.system.package_manager import Apt


class Contraflow(ConanFile):
    name = "contraflow"
    description = "Online reinforcement learning of flow-matching models on LibTorch"
    license = "Apache-2.0"
    topics = ("reinforcement-learning", "diffusion", "flow-matching", "libtorch", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def _root(self):
        return pathlib.Path(self.recipe_folder).parent.parent

    def set_version(self):
        header = (self._root() / "include/contraflow/version.hpp").read_text()
        self.version = ".".join(re.findall(r"define CONTRAFLOW_VERSION_[A-Z]+ (\d+)", header))

    def export_sources(self):
        for name in ("CMakeLists.txt", "LICENSE", "include/*", "cmake/*.cmake", "cmake/*.in"):
            copy(self, name, self._root(), self.export_sources_folder)

    def system_requirements(self):
        Apt(self).check(["libboost-dev", "nlohmann-json3-dev", "librandom123-dev"])

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for programs in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.cache_variables[f"CONTRAFLOW_BUILD_{programs}"] = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, pathlib.Path(self.package_folder) / "licenses")

    def package_id(self):
        self.info.clear()

    def package_info(self):
        # The package of CMake that the library installs says all there is to say.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = ["lib/cmake/contraflow"]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
