#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/io/settings.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using laws::check_error;

namespace {

cf::Settings settings_of(const std::string& text) {
  return cf::Settings(cf::parse_json("c.json", text), "c.json");
}

}  // namespace

TEST_CASE("settings give what the file says") {
  const TemporaryDirectory directory;
  const auto path = directory / "config.json";
  write_all(path, R"({"layers": 24, "eps": 1e-6, "whole": 2, "act": "silu", "bias": true,
                      "dual": [0, 1, 2], "names": ["a", "b"], "none": [], "null": null,
                      "least": -9223372036854775808, "most": 9223372036854775807,
                      "inner": {"deep": {"width": 3}}})");
  const cf::Settings settings(path);
  CHECK(settings.name() == path.string());
  CHECK(settings.integer("layers") == 24);
  CHECK(settings.integer("layers", 1, 24) == 24);
  CHECK(settings.integer("least") == INT64_MIN);
  CHECK(settings.integer("most") == INT64_MAX);
  CHECK(settings.number("eps") == 1e-6);
  CHECK(settings.number("whole") == 2.0);
  CHECK(settings.text("act") == "silu");
  CHECK(settings.boolean("bias"));
  CHECK(settings.integers("dual") == std::vector<std::int64_t>{0, 1, 2});
  CHECK(settings.integers("none").empty());
  CHECK(settings.texts("names") == std::vector<std::string>{"a", "b"});
  CHECK(settings.section("inner").section("deep").integer("width") == 3);
  CHECK(settings.has("layers"));
}

TEST_CASE("fallbacks stand in for what is missing or null, not for what is wrong") {
  const cf::Settings settings = settings_of(R"({"null": null, "text": "x"})");
  for (const std::string key : {"null", "missing"}) {
    CHECK_FALSE(settings.has(key));
    CHECK(settings.integer(key, 7) == 7);
    CHECK(settings.integer(key, 1, 2, 7) == 7);
    CHECK(settings.number(key, 0.5) == 0.5);
    CHECK(settings.text(key, "y") == "y");
    CHECK(settings.boolean(key, true));
    CHECK(settings.integers(key, {4}) == std::vector<std::int64_t>{4});
    CHECK(settings.texts(key, {"z"}) == std::vector<std::string>{"z"});
    check_error([&] { settings.integer(key); }, "c.json: \"" + key + "\"", "got none");
    check_error([&] { settings.section(key); }, "c.json: \"" + key + "\"", "an entry");
  }
  const std::string label = "c.json: \"text\"";
  check_error([&] { settings.integer("text", 7); }, label, "expected an integer, got string");
  check_error([&] { settings.integer("text", 1, 2, 7); }, label, "an integer");
  check_error([&] { settings.number("text", 0.5); }, label, "expected a number, got string");
  check_error([&] { settings.boolean("text", true); }, label, "expected a boolean, got string");
  check_error([&] { settings.integers("text", {}); }, label, "expected a list of integers");
  check_error([&] { settings.texts("text", {}); }, label, "expected a list of strings");
  check_error([&] { settings.section("text"); }, label, "expected a JSON object, got string");
}

TEST_CASE("settings refuse numbers that are not what was asked for") {
  const cf::Settings settings = settings_of(
      R"({"float": 2.0, "big": 9223372036854775808, "list": [1, "2"], "n": 5, "inner": {"n": 1.5}})");
  check_error([&] { settings.integer("float"); }, "c.json: \"float\"", "an integer");
  check_error([&] { settings.integer("big"); }, "c.json: \"big\"", "64 bits");
  check_error([&] { settings.integers("list"); }, "c.json: \"list\"", "got string");
  check_error([&] { settings.text("n"); }, "c.json: \"n\"", "expected a string, got number");
  check_error([&] { settings.integer("n", 6, 9); }, "c.json: \"n\"", "from 6 to 9, got 5");
  check_error([&] { settings.integer("n", 1, 4); }, "c.json: \"n\"", "from 1 to 4, got 5");
  check_error([&] { settings.section("inner").integer("n"); }, "c.json: \"inner\": \"n\"",
              "an integer");
}

TEST_CASE("hostile JSON is refused with the file's name") {
  const TemporaryDirectory directory;
  check_error([&] { cf::Settings settings(directory / "no"); }, (directory / "no").string(),
              "No such file");
  const auto refused = [](const std::string& text, const std::string& part) {
    check_error([&] { settings_of(text); }, "c.json", part);
  };
  refused("", "invalid JSON");
  refused("{\"a\": 1", "invalid JSON");
  refused("{} {}", "invalid JSON");
  refused(std::string("{}\0{", 4), "a zero byte");
  refused("{\"a\": \"\xff\"}", "invalid JSON or UTF-8");
  refused("[1]", "expected a JSON object, got array");
  refused("{\"a\": 1, \"a\": 2}", "\"a\" twice");
  refused("{\"b\": {\"a\": 1, \"a\": 2}}", "\"a\" twice");
  refused("{\"a\": 1e999}", "a number out of range");
  refused("{\"a\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}", "nested");
  CHECK(settings_of("{\"a\": {\"b\": 1}, \"c\": {\"b\": 1}}").json().size() == 2);
  CHECK_NOTHROW(settings_of("{\"a\": " + std::string(60, '[') + std::string(60, ']') + "}"));
  refused("{\"a\": \"" + std::string((64 << 20), 'x') + "\"}", "bytes of JSON");
}

TEST_CASE("changed settings are read or refused") {
  const std::string valid =
      R"({"layers": 24, "eps": 1e-6, "act": "silu", "bias": true, "dual": [0, 1], "in": {"w": 3}})";
  const std::string telling = "{}[]\",:0123456789-.eE\\u \x80\xff";
  std::mt19937 generator(11);
  const auto below = [&](std::size_t bound) { return generator() % bound; };
  int read = 0, refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = valid;
    for (std::size_t changes = 1 + below(3); changes > 0; --changes) {
      text[below(text.size())] = telling[below(telling.size())];
    }
    try {
      const cf::Settings settings = settings_of(text);
      settings.integer("layers", 0, 100, 1);
      settings.number("eps", 0.0);
      settings.text("act", "");
      settings.boolean("bias", false);
      settings.integers("dual", {});
      if (settings.has("in")) settings.section("in").integer("w", 1);
      ++read;
    } catch (const cf::Error&) {
      ++refused;
    }
  }
  CHECK(read > 100);
  CHECK(refused > 1000);
}
