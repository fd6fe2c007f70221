#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <contraflow/observe/output_file.hpp>

#include "temporary_directory.hpp"

namespace cf = contraflow;
using Catch::Matchers::ContainsSubstring;
using cf::detail::OutputFile;

TEST_CASE("what is written can be read while the file is open", "[observe]") {
  const TemporaryDirectory directory;
  OutputFile file = OutputFile::replace(directory / "a/b/file");
  file.write("one\n");
  CHECK(read_all(directory / "a/b/file") == "one\n");
  OutputFile moved = std::move(file);
  moved.write("two\n");
  CHECK(read_all(directory / "a/b/file") == "one\ntwo\n");
}

TEST_CASE("append_lines cuts off an unfinished last line", "[observe]") {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const auto after_append = [&](const std::string& before) {
    write_all(path, before);
    OutputFile::append_lines(path).write("new\n");
    return read_all(path);
  };
  CHECK(after_append("one\ntwo\n") == "one\ntwo\nnew\n");
  CHECK(after_append("one\ntw") == "one\nnew\n");
  CHECK(after_append("on") == "new\n");
  CHECK(after_append("") == "new\n");
}

TEST_CASE("a file that cannot be written is an error that names it", "[observe]") {
  const TemporaryDirectory directory;
  write_all(directory / "file", "");
  const std::string inside_a_file = (directory / "file/inner").string();
  CHECK_THROWS_MATCHES(OutputFile::replace(inside_a_file), cf::Error,
                       Catch::Matchers::MessageMatches(ContainsSubstring(inside_a_file)));
  CHECK_THROWS_AS(OutputFile::replace(directory.path()), cf::Error);
  CHECK_THROWS_AS(OutputFile::create(directory / "file"), cf::Error);
  CHECK_THROWS_AS(cf::detail::file_content(directory / "missing"), cf::Error);
}

TEST_CASE("a full disk is an error that names the file", "[observe]") {
  if (!std::filesystem::exists("/dev/full")) SKIP("this system has no /dev/full");
  OutputFile file = OutputFile::append_lines("/dev/full");
  CHECK_THROWS_MATCHES(file.write("x"), cf::Error,
                       Catch::Matchers::MessageMatches(ContainsSubstring("/dev/full") &&
                                                       ContainsSubstring("No space left")));
}
