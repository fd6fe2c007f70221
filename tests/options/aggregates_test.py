"""The list of aggregates is held complete: each that is missing is found, and nothing else."""

import pathlib
import tempfile
import unittest

import aggregates

WITH_DEFAULT = "struct New {\n  std::int64_t every = 0;  ///< epochs\n};\n"


class Aggregates(unittest.TestCase):
    def faults(self, text, listed="", path="train/a.hpp"):
        with tempfile.TemporaryDirectory() as name:
            file = pathlib.Path(name) / path
            file.parent.mkdir(parents=True)
            file.write_text("namespace contraflow {\n" + text + "}  // namespace contraflow\n")
            return list(aggregates.faults(pathlib.Path(name), listed))

    def test_one_that_is_missing(self):
        (fault,) = self.faults(WITH_DEFAULT)
        self.assertIn("train/a.hpp: New is not in the list", fault)

    def test_one_that_is_there(self):
        self.assertEqual(self.faults(WITH_DEFAULT, "Of<cf::toy::New, 1>,"), [])
        self.assertEqual(self.faults(WITH_DEFAULT, "Of<cf::New<cf::Euler>, 1>,"), [])

    def test_another_of_a_longer_name(self):
        self.assertEqual(len(self.faults(WITH_DEFAULT, "Of<cf::Newer, 1>, Of<cf::ANew, 1>")), 1)

    def test_a_default_that_calls(self):
        text = "struct New {\n  TimeGrid grid = sd3_grid(10);\n};\n"
        self.assertEqual(len(self.faults(text)), 1)

    def test_a_template_with_a_base(self):
        text = "template <class T>\nstruct New : Base<T> {\n  T member = {};\n};\n"
        self.assertEqual(len(self.faults(text)), 1)

    def test_what_is_no_setting(self):
        for text in (
            "struct New {\n  Tensor x0;\n};\n",
            "struct New {\n  static constexpr int order = 2;\n  using A = int;\n};\n",
            "struct New {\n  int f() const {\n    int a = 3;\n    return a;\n  }\n};\n",
            "/* struct New {\n  int a = 0;\n}; */\n",
            "namespace detail {\n" + WITH_DEFAULT + "void f() {\n}\n}  // namespace detail\n",
        ):
            self.assertEqual(self.faults(text), [], text)

    def test_behind_a_namespace_of_details(self):
        text = "namespace detail {\nvoid f() {\n}\n}  // namespace detail\n" + WITH_DEFAULT
        self.assertEqual(len(self.faults(text)), 1)

    def test_kernels_are_left_out(self):
        self.assertEqual(self.faults(WITH_DEFAULT, path="kernels/a.hpp"), [])


if __name__ == "__main__":
    unittest.main()
