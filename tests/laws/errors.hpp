#pragma once

#include <string>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <contraflow/core/error.hpp>

namespace laws {

/// Checks that @p f throws a contraflow::Error about @p argument whose text holds @p part.
template <class F>
void check_error(F&& f, const std::string& argument, const std::string& part) {
  INFO("expecting an error about " << argument << " with: " << part);
  try {
    f();
    FAIL_CHECK("nothing was thrown");
  } catch (const contraflow::Error& error) {
    CHECK(error.argument() == argument);
    CHECK_THAT(std::string(error.what()), Catch::Matchers::ContainsSubstring(part));
    CHECK(std::string(error.what()) ==
          error.argument() + ": expected " + error.expected() + ", got " + error.got());
  } catch (const std::exception& other) {
    FAIL_CHECK("not an Error of the library: " << other.what());
  }
}

}  // namespace laws
