// Settings of any bytes are read or refused.

#include <string_view>

#include <contraflow/io/settings.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(settings, input) {
  const contraflow::Settings settings(contraflow::parse_json("fuzz", input), "fuzz");
  settings.integer("a", 0, 9, 1);
  settings.number("b", 1.0);
  settings.text("c", "");
  settings.integers("d", {});
  if (settings.has("e")) settings.section("e").boolean("f");
}
