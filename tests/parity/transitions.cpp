// Newer losses on the steps of a stochastic solver.

#include <contraflow/objective/ddrl.hpp>
#include <contraflow/objective/distillation.hpp>
#include <contraflow/objective/grpo.hpp>
#include <contraflow/solver/sde.hpp>

#include "parity/steps.hpp"

namespace parity {

namespace {

Tensor log_prob_of(const Case& c, const Tensor& mean) {
  return transitions(c).log_density(c.in("next"), mean);
}

Tensor clipped_advantage(const Case& c) {
  return cf::clipped_advantages(scores_of(c), c.setting<double>("advantage_clip"))
      .to(c.in("advantage").scalar_type());
}

void guard_loss(Case& c) {
  const auto over = c.setting<std::string>("bias_over");
  if (over != "sample" && over != "batch") throw cf::Error("bias_over", "sample or batch", over);
  const Tensor mean = trained(c.in("mean")), log_prob = log_prob_of(c, mean);
  const Tensor log_ratio =
      cf::guard_log_ratio(log_prob, c.in("old_log_prob"), mean, c.in("mean_old"), c.in("std"),
                          over == "batch" ? cf::BiasOver::batch : cf::BiasOver::sample);
  const auto clip = c.setting<double>("clip_range");
  const Tensor ratio = log_ratio.exp();
  Tensor loss = cf::clipped_policy_loss(ratio, clipped_advantage(c), clip);
  if (c.setting<bool>("reweight")) loss = loss * cf::step_length_weight(c.in("dt"));
  loss.mean().backward();
  c.compare("out.log_prob", log_prob);
  c.compare("out.ratio", ratio);
  c.compare("out.clip_fraction", cf::is_clipped(ratio, clip).mean());
  c.compare("out.loss", loss.mean());
  c.compare("grad.mean", mean.grad());
}

// The steps of a grid but the last as one batch for the term, [T B] rows.
void guard_steps(Case& c) {
  const cf::FlowSde sde{.noise_level = c.setting<double>("noise_level")};
  const cf::TimeGrid grid = grid_of(c);
  const Tensor v = trained(c.in("v"));
  const std::int64_t steps = v.size(0), samples = v.size(1);
  std::vector<cf::Transition> rows;
  std::vector<double> lengths, stds;
  for (std::int64_t i = 0; i < steps * samples; ++i) {
    const cf::Step step = grid.step(std::size_t(i / samples));
    rows.push_back(sde.transition(step));
    lengths.push_back(step.to - step.from);
    if (i % samples == 0) stds.push_back(rows.back().std);
  }
  cf::TransitionBatch<cf::GrpoGuard::Velocities> batch;
  batch.x = c.in("x").flatten(0, 1);
  batch.transition = rows_of(rows, v.scalar_type());
  batch.transition.dt = at::tensor(lengths, at::kDouble).to(v.scalar_type());
  batch.old_mean = batch.transition.mean(batch.x, c.in("v_old").flatten(0, 1));
  batch.next =
      batch.old_mean + cf::per_sample(batch.transition.std, batch.x) * c.in("noise").flatten(0, 1);
  batch.velocities.get<Role::current>() = v.flatten(0, 1);
  const cf::GrpoGuard guard{.clip_range = c.setting<double>("clip_range"),
                            .advantage_clip = c.setting<double>("advantage_clip"),
                            .reweight = c.setting<bool>("reweight")};
  cf::Statistics statistics;
  const Tensor loss = guard.loss(batch, guard.signal(scores_of(c)).repeat({steps}), statistics);
  loss.mean().backward();
  c.compare("out.std", at::tensor(stds, at::kDouble));
  c.compare("out.step_loss", loss.view({steps, samples}).mean(1));
  c.compare("out.loss", loss.mean());
  c.compare("grad.v", v.grad());
}

void dppo_loss(Case& c) {
  const cf::FlowDppo dppo{.threshold = c.setting<double>("threshold"),
                          .divide_by_variance = c.setting<bool>("divide_by_variance")};
  const auto reported = transition_loss(c, cf::as_sum(dppo));
  c.compare("out.masked_fraction", reported.at("masked_fraction"));
  const Tensor ratio = (log_prob_of(c, c.in("mean")) - c.in("old_log_prob")).exp();
  const Tensor divergence =
      cf::dppo_divergence(c.in("mean"), c.in("mean_old"), c.in("std"), dppo.divide_by_variance);
  c.compare("out.ratio", ratio);
  c.compare("out.divergence", divergence);
  c.compare("out.kept", cf::dppo_kept(divergence, ratio, c.in("advantage"), dppo.threshold));
}

void tempflow_loss(Case& c) {
  const cf::TempFlowGrpo term{.clip_range = c.setting<double>("clip_range"),
                              .advantage_clip = c.setting<double>("advantage_clip"),
                              .factor = c.setting<double>("factor")};
  const auto kl_weight = c.setting<double>("kl_weight");
  const auto reported = kl_weight > 0 ? transition_loss(c, term + kl_weight * cf::TransitionKl{})
                                      : transition_loss(c, cf::as_sum(term));
  c.compare("out.policy_loss", reported.at("tempflow"));
  c.compare("out.kl", cf::transition_kl(c.in("mean"), c.in("mean_ref"), c.in("std")).mean());
}

void tempflow_weights(Case& c) {
  const cf::FlowSde sde{.noise_level = c.setting<double>("noise_level")};
  const cf::NoiseLevelWeights weights =
      cf::noise_level_weights(sde, grid_of(c), c.setting<std::size_t>("trained_steps"));
  c.compare("out.std", weights.std);
  c.compare("out.factor", weights.factor);
  c.compare("out.weight", weights.weight);
}

void ddrl_loss(Case& c) {
  const Tensor mean = trained(c.in("mean")), v = trained(c.in("data_v"));
  const cf::DdrlTerms terms =
      cf::ddrl_loss({mean, c.in("mean_old"), c.in("mean_ref"), c.in("next")}, c.in("advantage"),
                    cf::ddrl_data_loss(v, c.in("data_x0"), c.in("data_noise"), c.in("data_t")),
                    {.clip_range = c.setting<double>("clip_range"),
                     .advantage_clip = c.setting<double>("advantage_clip"),
                     .data_weight = c.setting<double>("data_weight"),
                     .kl_weight = c.setting<double>("kl_weight"),
                     .exponential = c.setting<bool>("exponential")});
  terms.total.backward();
  c.compare("out.log_ratio", terms.log_ratio);
  c.compare("out.used_advantage", terms.advantage);
  c.compare("out.policy_loss", terms.policy.mean());
  c.compare("out.kl", terms.kl.mean());
  c.compare("out.data_loss", terms.data.mean());
  c.compare("out.loss", terms.total);
  c.compare("grad.mean", mean.grad());
  c.compare("grad.data_v", v.grad());
}

void distill_loss(Case& c) {
  const auto on = c.setting<std::string>("on");
  if (on != "transition" && on != "velocity") {
    throw cf::Error("on", "transition or velocity", on);
  }
  const Tensor student = trained(c.in("student")), one = at::ones_like(c.in("std"));
  const Tensor std = c.setting<bool>("divide_by_variance") ? c.in("std") : one;
  const cf::DistillationTerms terms = cf::distillation_loss(
      student, c.in("teachers"), c.in("anchor"), on == "velocity" ? one : 2 * std.square(),
      c.setting<double>("anchor_weight"));
  terms.total.mean().backward();
  c.compare("out.teacher_loss", terms.teachers.mean(1));
  c.compare("out.loss", terms.total.mean());
  c.compare("grad.student", student.grad());
}

void distill_policy_loss(Case& c) {
  const Tensor mean = trained(c.in("mean")), divisor = 2 * c.in("level").square();
  const Tensor log_prob = log_prob_of(c, mean), ratio = (log_prob - c.in("old_log_prob")).exp();
  const auto away_from = [&](const Tensor& other) {
    return cf::distillation_loss(mean, other.unsqueeze(0), {}, divisor, 0).total;
  };
  const cf::DistillationPolicyTerms terms =
      cf::distillation_policy_loss(away_from(c.in("teacher")), ratio,
                                   {.scale = c.setting<double>("scale"),
                                    .advantage_clip = c.setting<double>("advantage_clip"),
                                    .clip_range = c.setting<double>("clip_range"),
                                    .detach = c.setting<bool>("detach"),
                                    .every_pair = c.setting<bool>("every_pair")});
  const Tensor loss =
      terms.policy.mean() + c.setting<double>("anchor_weight") * away_from(c.in("anchor")).mean();
  loss.backward();
  c.compare("out.log_prob", log_prob);
  c.compare("out.advantage", terms.advantage);
  c.compare("out.loss", loss);
  c.compare("grad.mean", mean.grad());
}

}  // namespace

Kinds kinds_of_transitions() {
  return {{"guard_loss", guard_loss},
          {"guard_steps", guard_steps},
          {"dppo_loss", dppo_loss},
          {"tempflow_loss", tempflow_loss},
          {"tempflow_weights", tempflow_weights},
          {"ddrl_loss", ddrl_loss},
          {"distill_loss", distill_loss},
          {"distill_policy_loss", distill_policy_loss}};
}

}  // namespace parity
