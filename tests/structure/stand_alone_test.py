"""A header that lacks an include is found, whatever others include and whatever is parsed before."""

import pathlib
import shutil
import tempfile
import unittest

import stand_alone

COMPILERS = [compiler for compiler in map(shutil.which, ("g++", "clang++")) if compiler]


class StandAlone(unittest.TestCase):
    def faults(self, compiler, files, parse_once=("heavy.hpp",)):
        files = {"heavy.hpp": "struct Heavy {};\n"} | files
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for path, text in files.items():
                (folder / path).write_text("#pragma once\n" + text)
            command = [compiler, "-std=c++20", "-I", str(folder)]
            headers = [path for path in files if path != "heavy.hpp"]
            return stand_alone.faults(headers, list(parse_once), command)

    def check(self, files, faulty, counts=None):
        for compiler in COMPILERS:
            with self.subTest(compiler):
                found, used = self.faults(compiler, files)
                self.assertEqual(list(found), faulty)
                if counts:
                    self.assertEqual(used, counts)

    def test_each_has_what_it_names(self):
        files = {
            "a.hpp": "#include <heavy.hpp>\nstruct A { Heavy heavy; };\n",
            "b.hpp": "#include <a.hpp>\nstruct B { A a; Heavy heavy; };\n",
            "c.hpp": "struct C {};\n",
        }
        self.check(files, [], {1: 2, 0: 1})

    def test_what_is_parsed_before_hides_nothing(self):
        files = {
            "a.hpp": "#include <heavy.hpp>\nstruct A { Heavy heavy; };\n",
            "b.hpp": "struct B { Heavy heavy; };\n",
        }
        self.check(files, ["b.hpp"])

    def test_what_others_include_hides_nothing(self):
        files = {"a.hpp": "struct A {};\n", "b.hpp": "struct B { A a; };\n"}
        self.check(files, ["b.hpp"])

    def test_an_include_of_the_library_is_wanted(self):
        self.check({"a.hpp": "#include <heavy.hpp>\nstd::vector<int> a();\n"}, ["a.hpp"])

    def test_each_header_is_in_one_part(self):
        headers = [f"room/{i}.hpp" for i in range(100)]
        parts = [stand_alone.part_of(headers, f"{k}/3") for k in (4, 5, 9)]
        self.assertEqual(sorted(sum(parts, [])), sorted(headers))
        self.assertTrue(all(len(part) > 15 for part in parts))

    def test_of_a_part_only_its_headers_are_tried(self):
        files = {f"{name}.hpp": "struct A { B b; };\n" for name in "abcdefgh"}
        some = stand_alone.part_of(list(files), "1/3")
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for path, text in files.items():
                (folder / path).write_text("#pragma once\n" + text)
            command = [COMPILERS[0], "-std=c++20", "-I", str(folder)]
            found, counts = stand_alone.faults(list(files), [], command, part="1/3")
        self.assertEqual(list(found), some)
        self.assertEqual(counts, {0: len(some)})

    def test_a_header_that_is_not_there(self):
        with self.assertRaises(ValueError):
            stand_alone.faults(["none.hpp"], [], [COMPILERS[0], "-std=c++20", "-I", "/nowhere"])


if __name__ == "__main__":
    unittest.main()
