"""Shows that examples.py finds what it looks for."""

import unittest

import examples

PAGE = "<!-- quote: examples/one.cpp -->"


class Faults(unittest.TestCase):
    def faults(self, text, pages=PAGE):
        return list(examples.faults_of("one.cpp", text, pages))

    def test_a_short_program_of_the_library_alone_is_right(self):
        self.assertEqual(self.faults("#include <contraflow/contraflow.hpp>\n" * 60), [])

    def test_long_programs_are_found(self):
        self.assertEqual(len(self.faults("\n" * 61)), 1)

    def test_own_headers_are_found(self):
        self.assertEqual(len(self.faults('# include "support/run.hpp"\n')), 1)

    def test_programs_without_a_page_are_found(self):
        self.assertEqual(len(self.faults("", "<!-- quote: examples/one.cpp [region] -->")), 1)


if __name__ == "__main__":
    unittest.main()
