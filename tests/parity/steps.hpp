#pragma once

#include <map>
#include <string>
#include <vector>

#include <torch/torch.h>

#include <contraflow/objective/algebra.hpp>

#include "parity/case.hpp"

/// Losses of whole gradient steps at the tensors of a case.
namespace parity {

using cf::Role;

// Means of the quantities that terms report.
inline std::map<std::string, double> means(const cf::Statistics& statistics) {
  std::map<std::string, double> result;
  statistics.for_each([&](std::string_view name, double mean) { result.emplace(name, mean); });
  return result;
}

// Scores that hold the advantages of the case.
inline cf::Scores scores_of(const Case& c) {
  const Tensor advantage = c.in("advantage").to(at::kDouble);
  return {advantage, advantage, at::zeros_like(advantage, at::kLong)};
}

// The loss of a gradient step on all samples of a batch, each looked at once.
template <class Points, class Objective, class Batch>
Tensor loss_of_step(const Objective& objective, const Batch& batch,
                    typename Objective::Shares shares, cf::Statistics& statistics) {
  using Terms = cf::TermsAt<Points>;
  const Tensor& v = cf::velocity<Role::current>(batch);
  const Tensor members = at::arange(v.size(0), at::kLong);
  objective.template set_scales<Terms>(shares, members, 1);
  return objective.template loss<Terms>(batch, members, shares, statistics);
}

// Steps as rows of numbers of a type.
inline cf::TransitionRows rows_of(const std::vector<cf::Transition>& steps, at::ScalarType type) {
  const auto column = [&](double cf::Transition::*member) {
    std::vector<double> values;
    for (const cf::Transition& step : steps) values.push_back(step.*member);
    return at::tensor(values, at::kDouble).to(type);
  };
  return {column(&cf::Transition::on_x), column(&cf::Transition::on_v),
          column(&cf::Transition::std), column(&cf::Transition::log_density_scale),
          column(&cf::Transition::log_density_offset)};
}

// Transitions whose mean is the velocity itself, so that a gradient by the velocity is one by the
// mean.
inline cf::TransitionRows transitions(const Case& c) {
  const Tensor& mean = c.in("mean");
  std::vector<cf::Transition> steps;
  for (const double std : doubles(c.in("std").reshape({-1}).expand({mean.size(0)}))) {
    steps.push_back(cf::Transition::gaussian(0, 1, std));
  }
  return rows_of(steps, mean.scalar_type());
}

// The loss of an objective on transitions at the tensors of the case, and its gradient.
template <class Objective>
std::map<std::string, double> transition_loss(Case& c, const Objective& objective) {
  const Tensor mean = trained(c.in("mean"));
  using Velocities =
      typename Objective::template VelocitiesOf<cf::TermsAt<cf::RecordedTransitions>>;
  cf::TransitionBatch<Velocities> batch;
  batch.x = at::zeros_like(mean);
  batch.next = c.in("next");
  batch.old_log_prob = c.in("old_log_prob");
  if (c.has("in.mean_old")) batch.old_mean = c.in("mean_old");
  batch.transition = transitions(c);
  batch.velocities.template get<Role::current>() = mean;
  if constexpr (Velocities::template contains<Role::reference>) {
    batch.velocities.template get<Role::reference>() = c.in("mean_ref");
  }
  cf::Statistics statistics;
  // Every sample is in the reference's mean, also one without an advantage.
  auto shares = objective.shares(scores_of(c), at::kCPU);
  for (auto& share : shares) share.keep = Tensor();
  const Tensor loss = loss_of_step<cf::RecordedTransitions>(objective, batch, shares, statistics);
  loss.backward();
  c.compare("out.loss", loss);
  c.compare("grad.mean", mean.grad());
  c.compare("out.log_prob", batch.transition.log_density(batch.next, mean));
  return means(statistics);
}

}  // namespace parity
