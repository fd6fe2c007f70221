#pragma once

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/concept.hpp>
#include <contraflow/path/rectified_flow.hpp>

#include "laws/compare.hpp"

/// Laws of Term, for any model of it, and batches to try terms on.
namespace laws {

using contraflow::Role;

namespace detail {
template <class RoleSet>
contraflow::Velocities<RoleSet> velocities(at::IntArrayRef shape, at::ScalarType dtype) {
  contraflow::Velocities<RoleSet> result;
  std::uint64_t seed = 10;
  RoleSet::for_each([&](auto role) {
    Tensor v = doubles(shape, seed++).to(dtype);
    if (role() == Role::current) v.requires_grad_();
    result.template get<role()>() = v;
  });
  return result;
}
}  // namespace detail

/// A batch of the kind that terms with these points look at, B = shape[0].
template <class RoleSet>
contraflow::ForwardBatch<RoleSet> batch_of(contraflow::ForwardProcess, at::IntArrayRef shape,
                                           at::ScalarType dtype = at::kFloat) {
  contraflow::ForwardBatch<RoleSet> batch;
  batch.x0 = floats(shape, 1);
  batch.eps = floats(shape, 2);
  batch.t = at::linspace(0.05, 1, shape[0]);
  batch.x_t = contraflow::interpolate(batch.x0, batch.eps, batch.t);
  batch.velocities = detail::velocities<RoleSet>(shape, dtype);
  return batch;
}

template <class RoleSet>
contraflow::TransitionBatch<RoleSet> batch_of(contraflow::RecordedTransitions,
                                              at::IntArrayRef shape,
                                              at::ScalarType dtype = at::kFloat) {
  const std::int64_t size = shape[0];
  std::vector<contraflow::Transition> steps;
  for (std::int64_t i = 0; i < size; ++i) {
    const double place = double(i) / double(size);
    steps.push_back(
        contraflow::Transition::gaussian(0.9 + 0.05 * place, -0.1 - place, 0.5 + place));
  }
  contraflow::TransitionBatch<RoleSet> batch;
  batch.x = floats(shape, 1);
  batch.velocities = detail::velocities<RoleSet>(shape, dtype);
  batch.transition = contraflow::TransitionRows::of(steps, at::arange(size, at::kLong));
  batch.transition.dt = at::linspace(-0.05, -0.2, size);
  const Tensor v = batch.velocities.template get<Role::current>().detach();
  batch.old_mean = batch.transition.mean(batch.x, v.to(at::kFloat) + 0.02 * floats(shape, 3));
  const Tensor std = contraflow::per_sample(batch.transition.std, batch.x);
  batch.next = batch.old_mean + std * floats(shape, 4);
  batch.old_log_prob = batch.transition.log_density(batch.next, batch.old_mean);
  return batch;
}

/// Scores of @p size samples in groups of four.
inline contraflow::Scores scores_of(std::int64_t size) {
  const Tensor reward = doubles({size}, 20);
  return {reward, reward - reward.mean(), at::arange(size, at::kLong).div(4, "floor")};
}

/// What a term takes from those scores.
template <class T>
Tensor signal_of(const T& term, std::int64_t size) {
  if constexpr (contraflow::HasSignal<T>) {
    return term.signal(scores_of(size));
  } else {
    return Tensor();
  }
}

/// A batch whose rows are in units of so many.
template <class Batch>
Batch in_units(Batch batch, std::int64_t unit) {
  if constexpr (requires { batch.unit_size; }) batch.unit_size = unit;
  return batch;
}

/// @param unit rows that belong together: 2 for terms that compare pairs, 4 for groups
template <contraflow::Term T>
void term(const T& term, std::int64_t unit = 1) {
  using Points = typename T::Points;
  using RoleSet = typename T::Velocities;
  constexpr std::int64_t size = 12;
  const auto is_fine = [](const Tensor& loss) {
    CHECK(loss.sizes() == at::IntArrayRef({size}));
    CHECK((loss.scalar_type() == at::kFloat || loss.scalar_type() == at::kDouble));
    CHECK(loss.isfinite().all().template item<bool>());
  };
  for (const auto& shape : {std::vector<std::int64_t>{size, 3}, {size, 2, 3, 3}}) {
    const auto batch = in_units(batch_of<RoleSet>(Points{}, shape), unit);
    const Tensor signal = signal_of(term, size);
    const auto loss_of = [&](const Tensor& ids) {
      contraflow::Statistics statistics;
      const Tensor own = signal.defined() ? signal.index_select(0, ids) : signal;
      return Tensor(term.loss(batch.template narrowed<RoleSet>(ids), own, statistics));
    };
    const Tensor all = at::arange(size, at::kLong), whole = loss_of(all);
    is_fine(whole);

    // The loss of a sample (or pair) depends on it alone.
    const Tensor units = shuffled(size / unit) * unit;
    const Tensor order = (units.unsqueeze(1) + at::arange(unit, at::kLong)).flatten();
    CHECK(relative_distance(loss_of(order), whole.index_select(0, order)) < 1e-5);
    CHECK(relative_distance(at::cat({loss_of(all.narrow(0, 0, unit)), loss_of(all.slice(0, unit))}),
                            whole) < 1e-5);

    // So is its gradient: that of a sum is the sum of those of its parts.
    const Tensor v = contraflow::velocity<Role::current>(batch);
    whole.sum().backward();
    const Tensor gradient = v.grad().clone();
    CHECK(gradient.norm().template item<double>() > 0);
    CHECK(gradient.isfinite().all().template item<bool>());
    v.mutable_grad().zero_();
    (loss_of(all.slice(0, 0, 2 * unit)).sum() * 2).backward();
    loss_of(all.slice(0, 2 * unit)).sum().backward();
    const Tensor factor = at::ones({size});
    factor.slice(0, 0, 2 * unit).fill_(2);
    CHECK(relative_distance(v.grad(), gradient * contraflow::per_sample(factor, gradient)) < 1e-5);
  }
  // Narrow velocities are widened before anything is summed.
  contraflow::Statistics statistics;
  const std::vector<std::int64_t> shape{size, 5};
  const auto narrow = in_units(batch_of<RoleSet>(Points{}, shape, at::kBFloat16), unit);
  const Tensor loss = term.loss(narrow, signal_of(term, size), statistics);
  is_fine(loss);
  loss.sum().backward();
  CHECK(contraflow::velocity<Role::current>(narrow).grad().scalar_type() == at::kBFloat16);
}

}  // namespace laws
