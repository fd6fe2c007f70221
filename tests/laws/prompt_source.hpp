#pragma once

#include <concepts>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/train/prompts.hpp>

#include "laws/compare.hpp"

namespace laws {

/// Whether references are equal: bit by bit, or entry by entry.
struct EqualReferences {
  bool operator()(const Tensor& a, const Tensor& b) const { return same_bits(a, b); }
  template <class T>
  bool operator()(const std::vector<T>& a, const std::vector<T>& b) const {
    return a == b;
  }
};

namespace detail {

/// One row an id, and equal ids give equal rows, whatever else is asked for.
template <class Rows, class Equal>
void rows_of_ids(const Tensor& ids, Rows&& rows, Equal&& equal) {
  using contraflow::batch_size, contraflow::select;
  const auto all = rows(ids);
  CHECK((batch_size(all) == ids.numel() || batch_size(all) == -1));
  CHECK(equal(rows(ids), all));
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    const Tensor row = at::tensor({i}, at::kLong);
    CHECK(equal(rows(ids.index_select(0, row)), select(all, row)));
  }
}

}  // namespace detail

/// The laws of PromptSource.
/// @param equal compares two conditions of the source
/// @param equal_references compares two references, where they are not conditions
template <contraflow::PromptSource P, class Equal = decltype(&same_bits),
          class EqualReference = EqualReferences>
void prompt_source(const P& prompts, Equal equal = &same_bits,
                   EqualReference equal_references = {}) {
  REQUIRE(prompts.size() >= 1);
  const std::int64_t last = prompts.size() - 1;
  const Tensor ids = at::tensor({std::int64_t{0}, last, std::int64_t{0}, last / 2}, at::kLong);
  detail::rows_of_ids(
      ids, [&](const Tensor& some) { return prompts.condition(some); }, equal);
  const auto reference = [&](const Tensor& some) {
    return contraflow::reference_of(prompts, some);
  };
  if constexpr (contraflow::HasPromptReference<P>) {
    detail::rows_of_ids(ids, reference, equal_references);
  } else {
    static_assert(std::same_as<contraflow::ReferenceOf<P>, contraflow::ConditionOf<P>>);
    CHECK(equal(reference(ids), prompts.condition(ids)));
  }
}

}  // namespace laws
