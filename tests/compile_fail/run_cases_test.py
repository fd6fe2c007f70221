"""A case is reported if its control fails, if it compiles, or if a sentence is missing; no other is."""

import pathlib
import shutil
import tempfile
import unittest

import run_cases

COMPILERS = [compiler for compiler in map(shutil.which, ("g++", "clang++")) if compiler]

CHECK = """#pragma once
template <class T>
struct Check {
  static_assert(sizeof(T) == 1, "must be small");
};
"""
REFUSED = """// expect: two is not three
#ifndef POSITIVE_CONTROL
static_assert(2 == 3, "two is not three");
#endif
"""
IN_A_TEMPLATE = """// expect: must be small
#include <check.hpp>
#ifdef POSITIVE_CONTROL
Check<char> run() { return {}; }
#else
struct Large { int value; };
Check<Large> run() { return {}; }
#endif
"""
OF_A_COMMON_TYPE = IN_A_TEMPLATE.replace("struct Large { int value; };", "using Large = long;")
COMPILES = "// expect: no\nint run();\n"
CONTROL_FAILS = '// expect: no\nstatic_assert(sizeof(int) == 0, "no");\n'
ANOTHER_ERROR = """// expect: must be small
#ifndef POSITIVE_CONTROL
int x = unknown;
#endif
"""
IN_A_NOTE = """// expect: the sentence
#ifndef POSITIVE_CONTROL
int x = unknown;  // the sentence
#endif
"""
TWO_SENTENCES = "// expect: one\n// expect: two\n#ifndef POSITIVE_CONTROL\n%s#endif\n"
ONE = 'static_assert(2 == 3, "one");\n'
TWO = 'static_assert(2 == 4, "two");\n'
GLOBAL_NAME = """// expect: two is not three
int mine;
int* whose = &::mine;
#ifndef POSITIVE_CONTROL
static_assert(2 == 3, "two is not three");
#endif
"""
ALONE_ONLY = '// expect: no\n#include "beside.hpp"\n#ifndef POSITIVE_CONTROL\n%s#endif\n'


class RunCases(unittest.TestCase):
    def run_all(self, compiler, texts):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "check.hpp").write_text(CHECK)
            (folder / "beside.hpp").write_text("#pragma once\n")
            cases = [folder / f"{name}.cpp" for name in texts]
            for case in cases:
                case.write_text(texts[case.stem])
            found, told = run_cases.faults(cases, [compiler, "-std=c++20", "-isystem", name])
            return {case.stem: fault for case, fault in found.items()}, told

    def check(self, texts, sentences, told=""):
        """Each case at fault is told with its sentence, by each compiler."""
        for compiler in COMPILERS:
            with self.subTest(compiler):
                found, how = self.run_all(compiler, texts)
                self.assertEqual(set(found), set(sentences), found)
                for name, sentence in sentences.items():
                    self.assertIn(sentence, found[name])
                self.assertIn(told, how)

    def test_all_in_two_processes(self):
        texts = {"a": REFUSED, "b": IN_A_TEMPLATE, "c": REFUSED, "d": IN_A_TEMPLATE}
        self.check(texts, {}, "2 compiler processes; tried alone: none")

    def test_one_that_compiles_among_others(self):
        texts = {"a": REFUSED, "b": COMPILES, "c": IN_A_TEMPLATE}
        self.check(texts, {"b": "should be refused"}, "tried alone: b")

    def test_another_error_among_those_with_its_sentence(self):
        texts = {"a": IN_A_TEMPLATE, "b": ANOTHER_ERROR, "c": IN_A_TEMPLATE}
        self.check(texts, {"b": "no error line holds 'must be small'"})

    def test_another_error_after_its_sentence_in_another(self):
        self.check({"a": IN_A_TEMPLATE, "b": ANOTHER_ERROR}, {"b": "no error line holds"})
        self.check({"a": ANOTHER_ERROR, "b": IN_A_TEMPLATE}, {"a": "no error line holds"})

    def test_the_sentence_in_a_note_only(self):
        self.check({"a": IN_A_NOTE, "b": REFUSED}, {"a": "no error line holds"})

    def test_a_control_that_does_not_compile(self):
        texts = {"a": REFUSED, "b": CONTROL_FAILS}
        self.check(texts, {"b": "the control does not compile"})

    def test_a_control_that_compiles_alone_only(self):
        texts = {"a": REFUSED, "b": GLOBAL_NAME, "c": REFUSED}
        self.check(texts, {}, "controls alone: b")

    def test_a_type_that_is_checked_once_for_two(self):
        self.check({"a": OF_A_COMMON_TYPE, "b": OF_A_COMMON_TYPE}, {}, "tried alone: b")

    def test_two_sentences(self):
        self.check({"a": TWO_SENTENCES % (ONE + TWO), "b": REFUSED}, {})
        self.check({"a": TWO_SENTENCES % ONE, "b": REFUSED}, {"a": "no error line holds 'two'"})

    def test_a_single_case(self):
        self.check({"a": REFUSED}, {})
        self.check({"a": COMPILES}, {"a": "should be refused"})

    def test_a_file_beside_the_case(self):
        texts = {"a": ALONE_ONLY % 'static_assert(2 == 3, "no");\n', "b": REFUSED, "c": REFUSED}
        self.check(texts, {}, "tried alone: a")
        self.check(texts | {"a": ALONE_ONLY % ""}, {"a": "should be refused"})

    def test_no_sentence(self):
        for text in ("int x;\n", "// expect:\nint x;\n"):
            with self.assertRaises(ValueError):
                self.run_all(COMPILERS[0], {"a": text})


if __name__ == "__main__":
    unittest.main()
