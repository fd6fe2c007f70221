#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/time/training_times.hpp>

#include "laws/compare.hpp"

namespace laws {

/// The laws of TrainingTimes on a grid of ten steps, where @p per_unit times a unit are drawn.
template <contraflow::TrainingTimes T>
void training_times(const T& times, std::int64_t per_unit) {
  const auto grid = contraflow::sd3_grid(10);
  for (const std::int64_t units : {1, 7, 300}) {
    contraflow::Generator generator = contraflow::seeded(3), same = contraflow::seeded(3);
    const Tensor t = times(units, grid, generator);
    CHECK(t.sizes() == at::IntArrayRef({units, per_unit}));
    CHECK(t.scalar_type() == at::kFloat);
    CHECK(t.min().template item<double>() >= 0);
    CHECK(t.max().template item<double>() <= 1);
    CHECK(same_bits(t, times(units, grid, same)));
    // The times of a unit go with its name, in any order of the units.
    const Tensor names = at::arange(units, at::kLong) * 1000 - 7, other = shuffled(units);
    contraflow::Generator named = contraflow::seeded(3).rows(names);
    contraflow::Generator moved = contraflow::seeded(3).rows(names.index_select(0, other));
    CHECK(same_bits(times(units, grid, named).index_select(0, other), times(units, grid, moved)));
  }
}

}  // namespace laws
