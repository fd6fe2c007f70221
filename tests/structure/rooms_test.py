"""The checks of rooms and targets find each fault, and nothing where there is none."""

import pathlib
import tempfile
import unittest

import rooms
import targets


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

    def test_one_name_in_two_rooms(self):
        self.assert_fault({"io/a.hpp": header(), "time/a.hpp": header()}, "a.hpp is the name of")
        self.assertEqual(
            self.faults({"model/concept.hpp": header(), "solver/concept.hpp": header()}), []
        )

    def test_details_of_another_room(self):
        lower = "#pragma once\nnamespace contraflow::detail {\ninline int helper(int x) { return x; }\n}\n"
        upper = header("contraflow/core/a.hpp") + "int f() { return detail::helper(1); }\n"
        self.assert_fault({"core/a.hpp": lower, "time/b.hpp": upper}, "uses detail::helper of core/a.hpp")
        within = header("contraflow/time/c.hpp") + "namespace contraflow {\nnamespace detail {\n"
        within += "inline int g() { return helper(1); }\n}\n}\n"
        between = header("contraflow/core/a.hpp")
        self.assert_fault(
            {"core/a.hpp": lower, "time/c.hpp": between, "path/d.hpp": within}, "path/d.hpp uses"
        )

    def test_details_of_the_own_room_of_others_and_in_comments(self):
        lower = "#pragma once\nnamespace contraflow::detail {\nstruct Helper {};\n}\n"
        own = header("contraflow/core/a.hpp") + "detail::Helper helper;\n"
        foreign = header("contraflow/core/a.hpp") + "at::detail::Helper h;  // detail::Helper\n"
        files = {"core/a.hpp": lower, "core/b.hpp": own, "time/c.hpp": foreign}
        self.assertEqual(self.faults(files), [])

    def test_pages_with_another_rank(self):
        overview = "| 1 | @subpage room_time | grids |\n| 3 | @subpage room_path | conversions |\n"
        pages = {"time": "Grids. Rank 1.", "path": "Conversions. Rank 2.", "io": "Files. Rank 2."}
        found = list(rooms.faults_of_pages(overview, pages))
        self.assertEqual(len(found), 3, found)
        self.assertIn("path at rank 3", found[1])
        self.assertIn("io at rank None", found[0])
        self.assertIn("page of io", found[2])


class Targets(unittest.TestCase):
    lists = targets.lists_of(
        "set(CONTRAFLOW_HEADERS_images io/png.hpp)\nset(CONTRAFLOW_HEADERS_text text/*.hpp)\n"
        "set(CONTRAFLOW_NEEDS_text images)\n"
    )
    files = {"io/png.hpp": header("png.h"), "text/a.hpp": header("contraflow/io/png.hpp")}

    def faults(self, files):
        return list(targets.faults({**self.files, **files}, self.lists))

    def test_nothing(self):
        self.assertEqual(self.faults({"io/file.hpp": header()}), [])

    def test_a_header_of_a_component(self):
        found = self.faults({"io/file.hpp": header("contraflow/text/a.hpp")})
        self.assertIn("includes <contraflow/text/a.hpp> of contraflow::text", found[0])

    def test_a_library(self):
        found = self.faults({"io/file.hpp": header("unicode/unistr.h")})
        self.assertIn("of contraflow::text", found[0])

    def test_a_list_of_what_is_not_there(self):
        found = list(targets.faults({"io/png.hpp": header("png.h")}, self.lists))
        self.assertIn("lists text/*.hpp", found[0])


if __name__ == "__main__":
    unittest.main()
