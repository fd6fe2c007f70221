#include <catch2/catch_test_macros.hpp>

#include <contraflow/version.hpp>

TEST_CASE("the version is the one that the package states") {
  CHECK(contraflow::version == contraflow::Version{CONTRAFLOW_VERSION_MAJOR,
                                                   CONTRAFLOW_VERSION_MINOR,
                                                   CONTRAFLOW_VERSION_PATCH});
}
