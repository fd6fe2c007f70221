"""The check of the rooms finds each fault, and nothing where there is none."""

import pathlib
import tempfile
import unittest

import rooms


def header(*included):
    return "#pragma once\n" + "".join(f"#include <{name}>\n" for name in included)


class Rooms(unittest.TestCase):
    def faults(self, files):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            return list(rooms.faults(folder))

    def assert_fault(self, files, sentence):
        found = self.faults(files)
        self.assertEqual(len(found), 1, found)
        self.assertIn(sentence, found[0])

    def test_lower_ranks_and_the_own_room_are_allowed(self):
        self.assertEqual(
            self.faults(
                {
                    "core/meta.hpp": header("boost/hana.hpp"),
                    "policy/a.hpp": header("contraflow/policy/b.hpp", "contraflow/model/c.hpp"),
                    "kernels/k.cuh": header("cuda_runtime.h", "contraflow/kernels/e.hpp"),
                    "contraflow.hpp": header("contraflow/toy/task.hpp"),
                }
            ),
            [],
        )

    def test_a_higher_rank(self):
        self.assert_fault({"path/a.hpp": header("contraflow/train/b.hpp")}, "path has rank 2")

    def test_rooms_of_one_rank(self):
        self.assert_fault({"solver/a.hpp": header("contraflow/model/b.hpp")}, "solver has rank 3")

    def test_an_include_in_quotes(self):
        text = '#pragma once\n#include "contraflow/train/b.hpp"\n'
        self.assert_fault({"time/a.hpp": text}, "time has rank 1")

    def test_an_include_beside_it(self):
        self.assert_fault({"time/a.hpp": '#pragma once\n#include "b.hpp"\n'}, "write the path")

    def test_an_include_in_a_comment_is_none(self):
        text = "#pragma once\n// #include <contraflow/train/b.hpp>\n"
        self.assertEqual(self.faults({"time/a.hpp": text}), [])

    def test_hana_outside_meta(self):
        self.assert_fault({"core/a.hpp": header("boost/hana/map.hpp")}, "only core/meta.hpp")

    def test_libtorch_in_a_device_header(self):
        self.assert_fault({"kernels/a.cuh": header("ATen/ATen.h")}, "do without LibTorch")

    def test_the_umbrella_in_a_room(self):
        self.assert_fault({"sd3/a.hpp": header("contraflow/contraflow.hpp")}, "every room")

    def test_no_pragma_once(self):
        self.assert_fault({"core/a.hpp": "int f();\n"}, "#pragma once")

    def test_no_room(self):
        self.assert_fault({"utils/a.hpp": header()}, "is in no room")
        self.assert_fault({"a.hpp": header()}, "is in no room")

    def test_an_unknown_room(self):
        self.assert_fault({"toy/a.hpp": header("contraflow/utils/b.hpp")}, "utils is not a room")


if __name__ == "__main__":
    unittest.main()
