#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/condition.hpp>

#include "laws/compare.hpp"

namespace laws {

/// The laws of Condition, for one of at least two rows.
/// @param equal compares two conditions
template <contraflow::Condition C, class Equal = decltype(&same_bits)>
void condition(const C& c, Equal equal = &same_bits) {
  using contraflow::batch_size, contraflow::concatenate, contraflow::repeat, contraflow::select;
  const std::int64_t rows = batch_size(c);
  REQUIRE(rows >= 2);
  CHECK(batch_size(select(c, at::tensor({1, 0, 1}, at::kLong))) == 3);
  CHECK(equal(select(c, at::arange(rows, at::kLong)), c));
  const C twice = concatenate(c, c);
  CHECK(batch_size(twice) == 2 * rows);
  CHECK(equal(select(twice, at::arange(rows, at::kLong)), c));
  CHECK(equal(select(twice, at::arange(rows, 2 * rows, at::kLong)), c));
  const C repeated = repeat(c, 3);
  CHECK(batch_size(repeated) == 3 * rows);
  CHECK(equal(repeated, select(c, at::arange(3 * rows, at::kLong).div(3, "floor"))));
}

}  // namespace laws
