"""A call of a constrained template of LibTorch is found; others and comments are let be."""

import pathlib
import tempfile
import unittest

import library_templates


class LibraryTemplates(unittest.TestCase):
    def faults(self, text):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "a.hpp").write_text(text)
            return list(library_templates.faults(folder))

    def test_a_call(self):
        self.assertEqual(len(self.faults("int x;\nauto* p = x.const_data_ptr<float>();\n")), 1)
        self.assertEqual(len(self.faults("auto* p = x.template const_data_ptr<T>();\n")), 1)

    def test_none(self):
        self.assertEqual(self.faults("auto* p = x.const_data_ptr();  // not const_data_ptr<T>()\n"), [])
        self.assertEqual(self.faults("auto* p = x.mutable_data_ptr<float>();\n"), [])


if __name__ == "__main__":
    unittest.main()
