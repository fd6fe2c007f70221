"""The aggregates of a header are found, with the number of their members, and nothing else."""

import unittest

import aggregates


def found(text, namespace="contraflow"):
    text = f"namespace {namespace} {{\n{text}\n}}  // namespace {namespace}\n"
    return list(aggregates.lines_of(text))


def line(count, name="contraflow::New"):
    return [f"CONTRAFLOW_AGGREGATE({count}, {name})\n"]


class Aggregates(unittest.TestCase):
    def test_members_are_counted(self):
        for count, body in (
            (1, "  std::int64_t every = 0;  ///< epochs; at least 1"),
            (2, "  Tensor x0;\n  TimeGrid grid = sd3_grid(10);"),
            (3, "  double width = 0, height = 0;\n  std::vector<int> sizes = {1, 2, 3};"),
            (2, "  std::map<std::string, int> a = {};\n  std::function<int(int, int)> f;"),
            (2, "  std::vector<int> long_one = {\n      1,\n      2};\n  bool b = false;"),
            (1, "  [[no_unique_address]] Record record = {};"),
            (1, "  std::string text = \"x\";\n  int f() const { int a = 3; return a; }"),
            (2, "  int a = 0;\n  void f() {\n    g();\n  }\n\n private:\n  void g();\n  int b = 0;"),
            (1, "  using A = int;\n  static constexpr int order = 2;\n  double beta = 1;"),
            (1, "  /* int no = 0; */\n  double beta = 1;\n  Tensor operator()(int a, int b) const;"),
        ):
            self.assertEqual(found("struct New {\n" + body + "\n};"), line(count), body)

    def test_what_has_no_setting(self):
        for body in (
            "  Tensor x0;",
            "  static constexpr int order = 2;\n  using A = int;",
            "  int f() const {\n    int a = 3;\n    return a;\n  }",
            "  template <class T>\n  static constexpr bool is = true;",
        ):
            self.assertEqual(found("struct New {\n" + body + "\n};"), [], body)

    def test_namespaces(self):
        struct = "struct New {\n  int a = 0;\n};"
        inner = f"namespace detail {{\nvoid f() {{\n}}\n{struct}\n}}  // namespace detail"
        self.assertEqual(found(inner), [])
        self.assertEqual(found(inner + "\n" + struct), line(1))
        self.assertEqual(found(struct, "contraflow::toy"), line(1, "contraflow::toy::New"))
        self.assertEqual(found(struct, "contraflow::tfevents"), [])

    def test_templates_have_arguments_or_a_reason(self):
        struct = "template <class A, class B>\nstruct {} {{\n  A a = {{}};\n}};"
        self.assertEqual(
            found(struct.format("Window")), line(1, "contraflow::Window<cf::FlowSde, cf::Euler>")
        )
        self.assertEqual(found(struct.format("Weighted")), [])
        with self.assertRaises(SystemExit):
            found(struct.format("New"))


if __name__ == "__main__":
    unittest.main()
