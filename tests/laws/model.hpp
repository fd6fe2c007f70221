#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/model/concept.hpp>

#include "laws/compare.hpp"

/// Laws of FlowModel and TrainableModel, for any model of them.
namespace laws {

/// @param x [B, ...] with B > 3, @param condition one row a sample
template <class M, class C = contraflow::Unconditional>
void flow_model(M& model, const Tensor& x, const C& condition = {}, double tolerance = 1e-5) {
  using contraflow::select;
  static_assert(contraflow::FlowModel<M, C>);
  const Tensor t = at::linspace(0.05, 0.95, x.size(0), x.options());
  const auto run = [&](const Tensor& rows) {
    return contraflow::velocity_of(model, x.index_select(0, rows), t.index_select(0, rows),
                                   select(condition, rows));
  };
  const Tensor all = at::arange(x.size(0), at::kLong), v = run(all);
  CHECK(v.sizes() == x.sizes());
  CHECK(v.isfinite().all().template item<bool>());
  CHECK(same_bits(v, run(all)));
  const Tensor order = shuffled(x.size(0));
  CHECK(relative_distance(run(order), v.index_select(0, order)) < tolerance);
  CHECK(relative_distance(at::cat({run(all.narrow(0, 0, 1)), run(all.slice(0, 1))}), v) <
        tolerance);
  const at::NoGradGuard no_gradient;
  CHECK(relative_distance(run(all), v) < tolerance);
}

/// @param model of at least one parameter that is trained
template <class M, class C = contraflow::Unconditional>
void trainable_model(M& model, const Tensor& x, const C& condition = {}) {
  static_assert(contraflow::TrainableModel<M, C>);
  const Tensor t = at::full({x.size(0)}, 0.4, x.options());
  const auto run = [&](M& one) { return contraflow::velocity_of(one, x, t, condition).detach(); };
  const Tensor before = run(model);
  M copy = contraflow::clone_of(model);
  CHECK(same_bits(run(copy), before));
  // Training the copy leaves the model as it was: a clone shares no weights.
  {
    const at::NoGradGuard no_gradient;
    const auto parameters = contraflow::module_of(copy)->parameters();
    REQUIRE_FALSE(parameters.empty());
    for (const Tensor& parameter : parameters) Tensor(parameter).add_(0.5);
  }
  CHECK(same_bits(run(model), before));
  CHECK_FALSE(at::equal(run(copy), before));
  // Gradients reach the weights.
  contraflow::velocity_of(model, x, t, condition).square().sum().backward();
  double norm = 0;
  for (const Tensor& parameter : contraflow::module_of(model)->parameters()) {
    if (parameter.grad().defined()) norm += parameter.grad().norm().template item<double>();
  }
  CHECK(norm > 0);
}

}  // namespace laws
