"""A case fails if its control does, if it compiles, or if the sentence is missing."""

import pathlib
import shutil
import tempfile
import unittest

import run_case

COMPILER = shutil.which("g++") or shutil.which("clang++")


class RunCase(unittest.TestCase):
    def fault(self, text):
        with tempfile.TemporaryDirectory() as folder:
            case = pathlib.Path(folder) / "case.cpp"
            case.write_text(text)
            return run_case.fault(case, [COMPILER, "-std=c++20"])

    def test_refused_with_its_sentence(self):
        text = """// expect: two is not three
#ifndef POSITIVE_CONTROL
static_assert(2 == 3, "two is not three");
#endif
"""
        self.assertIsNone(self.fault(text))

    def test_the_control_does_not_compile(self):
        text = '// expect: no\nstatic_assert(false, "no");\n'
        self.assertIn("the control does not compile", self.fault(text))

    def test_it_compiles(self):
        self.assertIn("should be refused", self.fault("// expect: no\nint x;\n"))

    def test_another_error(self):
        text = "// expect: a reason\n#ifndef POSITIVE_CONTROL\nint x = unknown;\n#endif\n"
        self.assertIn("no error line holds 'a reason'", self.fault(text))

    def test_the_sentence_in_a_note_only(self):
        text = """// expect: the sentence
#ifndef POSITIVE_CONTROL
int x = unknown;  // the sentence
#endif
"""
        self.assertIn("no error line holds", self.fault(text))

    def test_no_sentence(self):
        with self.assertRaises(ValueError):
            self.fault("int x;\n")


if __name__ == "__main__":
    unittest.main()
