// Settings of any bytes are read or refused.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <contraflow/io/settings.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const contraflow::Settings settings(contraflow::parse_json("fuzz", text), "fuzz");
    settings.integer("a", 0, 9, 1);
    settings.number("b", 1.0);
    settings.text("c", "");
    settings.integers("d", {});
    if (settings.has("e")) settings.section("e").boolean("f");
  } catch (const contraflow::Error&) {
  }
  return 0;
}
