#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/train/prompts.hpp>

#include "laws/compare.hpp"

namespace laws {

/// The laws of PromptSource.
/// @param equal compares two conditions of the source
template <contraflow::PromptSource P, class Equal = decltype(&same_bits)>
void prompt_source(const P& prompts, Equal equal = &same_bits) {
  using contraflow::batch_size, contraflow::select;
  REQUIRE(prompts.size() >= 1);
  const std::int64_t last = prompts.size() - 1;
  const Tensor ids = at::tensor({std::int64_t{0}, last, std::int64_t{0}, last / 2}, at::kLong);
  const auto condition = prompts.condition(ids);
  CHECK((batch_size(condition) == 4 || batch_size(condition) == -1));
  CHECK(equal(prompts.condition(ids), condition));
  for (std::int64_t i = 0; i < 4; ++i) {
    const Tensor row = at::tensor({i}, at::kLong);
    CHECK(equal(prompts.condition(ids.index_select(0, row)), select(condition, row)));
  }
}

}  // namespace laws
