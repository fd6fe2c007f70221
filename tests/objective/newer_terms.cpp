// Newer terms: their laws, and what sets each of them apart.

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/crd.hpp>
#include <contraflow/objective/ddrl.hpp>
#include <contraflow/objective/dgpo.hpp>
#include <contraflow/objective/distillation.hpp>
#include <contraflow/objective/stale_samples.hpp>
#include <contraflow/solver/sde.hpp>

#include "laws/errors.hpp"
#include "laws/term.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

constexpr double level = 0.7;
constexpr std::int64_t dimensions = 6;

// A step of Flow-GRPO's SDE at a ratio of 1: three samples, in float64 but for the numbers of the
// step.
struct AtRatioOne {
  cf::TransitionBatch<cf::Roles<Role::current>> batch;
  Tensor noise;

  explicit AtRatioOne(const cf::Step& step) {
    const cf::Transition transition = cf::FlowSde{.noise_level = level}.transition(step);
    const std::vector<std::int64_t> shape{3, dimensions};
    noise = laws::doubles(shape, 3);
    batch.x = laws::doubles(shape, 1);
    batch.transition = cf::TransitionRows::of({transition}, at::zeros({3}, at::kLong));
    for (Tensor* column :
         {&batch.transition.on_x, &batch.transition.on_v, &batch.transition.std,
          &batch.transition.log_density_scale, &batch.transition.log_density_offset}) {
      *column = column->to(at::kDouble);
    }
    batch.transition.dt = at::full({3}, step.to - step.from, at::kDouble);
    const Tensor v = laws::doubles(shape, 2).requires_grad_();
    batch.velocities.get<Role::current>() = v;
    batch.old_mean = batch.transition.mean(batch.x, v.detach());
    batch.next = batch.old_mean + cf::per_sample(batch.transition.std, batch.x) * noise;
    batch.old_log_prob = batch.transition.log_density(batch.next, batch.old_mean);
  }

  // The gradient of a term's loss by the velocity, in units of `A mean(z dv)`.
  template <class T>
  double gradient(const T& term) const {
    const Tensor v = cf::velocity<Role::current>(batch);
    v.mutable_grad() = Tensor();
    cf::Statistics statistics;
    const Tensor advantage = at::tensor({1.0, -2.0, 0.5}, at::kDouble);
    term.loss(batch, advantage, statistics).sum().backward();
    const Tensor unit = advantage.unsqueeze(1) * noise / double(dimensions);
    const Tensor factor = (v.grad() * unit).sum() / unit.square().sum();
    CHECK(relative_distance(v.grad(), factor * unit) < 1e-6);
    return factor.item<double>();
  }
};

// A batch of whole groups of four, as its terms see it, with given advantages.
template <class T>
auto groups_of_four() {
  const std::vector<std::int64_t> shape{12, 3};
  return laws::in_units(
      laws::batch_of<typename T::Velocities>(cf::ForwardProcess{}, shape, at::kDouble), 4);
}

template <class T, class Batch>
Tensor gradient_of(const T& term, const Batch& batch, const Tensor& signal) {
  const Tensor v = cf::velocity<Role::current>(batch);
  v.mutable_grad() = Tensor();
  cf::Statistics statistics;
  term.loss(batch, signal, statistics).sum().backward();
  return v.grad().clone();
}

}  // namespace

TEST_CASE("newer terms keep the laws of terms") {
  laws::term(cf::GrpoGuard{.clip_range = 0.2, .reweight = false});
  laws::term(cf::TempFlowGrpo{.clip_range = 0.2});
  laws::term(cf::TempFlowGrpo{.clip_range = 0.2, .factor = 2.25});
  laws::term(cf::FlowDppo{.threshold = 10});
  laws::term(cf::OptimalityKl{});
  laws::term(cf::Crd{}, 4);
  laws::term(cf::Crd{.fit = cf::CrdFit::cross_entropy, .temperature = 0.3, .adaptive = false}, 4);
  laws::term(cf::Dgpo{.clip_error = false}, 4);
  laws::term(cf::VelocityDistillation<>{});
  laws::term(cf::TransitionDistillation<>{});
  laws::term(cf::TransitionDistillation<Role::reference>{cf::DistillationScale::std});
  laws::term(cf::DistillationPolicy<>{.clip_range = 0.5});
}

TEST_CASE("at a ratio of 1 the three forms of Flow-GRPO differ by a factor a step") {
  const cf::TimeGrid grid = cf::sd3_grid(8);
  for (std::size_t i = 0; i + 1 < grid.steps(); ++i) {
    const cf::Step step = grid.step(i);
    const AtRatioOne at_one(step);
    const double length = step.from - step.to, std = at_one.batch.transition.std[0].item<double>();
    const double k = i == 0 ? 1 : 1 + level * level / 2;
    const auto is = [](double got, double expected) {
      CHECK(std::abs(got - expected) < 1e-4 * std::abs(expected));
    };
    INFO("step " << i);
    // The loss falls along A z since dt is below 0.
    is(at_one.gradient(cf::Grpo{}), k * length / std);
    is(at_one.gradient(cf::TempFlowGrpo{.factor = 1}), k * length);
    is(at_one.gradient(cf::GrpoGuard{.reweight = false}), k * length);
    is(at_one.gradient(cf::GrpoGuard{}), k);
    // s = std / sqrt(-dt), so the first is k sqrt(-dt) / s.
    is(at_one.batch.transition.levels()[0].item<double>(), std / std::sqrt(length));
  }
}

TEST_CASE("GRPO-Guard's ratio needs no log-densities") {
  const std::vector<std::int64_t> shape{5, 4};
  const Tensor mean_old = laws::doubles(shape, 1), mean = mean_old + 0.1 * laws::doubles(shape, 2);
  const Tensor std = at::linspace(0.1, 2, 5, at::kDouble);
  const Tensor next = mean_old + std.unsqueeze(1) * laws::doubles(shape, 3);
  const auto log_prob = [&](const Tensor& m) {
    return -(next - m).square().mean(1) / (2 * std.square());
  };
  const Tensor direct = cf::normalised_log_ratio(next, mean, mean_old, std);
  CHECK(relative_distance(
            cf::guard_log_ratio(log_prob(mean), log_prob(mean_old), mean, mean_old, std), direct) <
        1e-12);
  // Over the batch it is another number for all samples but one.
  const Tensor mistaken = cf::guard_log_ratio(log_prob(mean), log_prob(mean_old), mean, mean_old,
                                              std, cf::BiasOver::batch);
  CHECK(relative_distance(mistaken, direct) > 1e-3);
}

TEST_CASE("GRPO-Guard says what it lacks") {
  AtRatioOne at_one(cf::sd3_grid(8).step(2));
  at_one.batch.transition.dt = Tensor();
  cf::Statistics statistics;
  const Tensor advantage = at::ones({3}, at::kDouble);
  check_error([&] { cf::GrpoGuard{}.loss(at_one.batch, advantage, statistics); }, "dt",
              "RecordedSteps::dt");
  cf::GrpoGuard{.reweight = false}.loss(at_one.batch, advantage, statistics);
}

TEST_CASE("TempFlow's weights have the mean 1, and its factor is that of the recorded steps") {
  const cf::FlowSde sde{.noise_level = level};
  const cf::TimeGrid grid = cf::sd3_grid(10);
  const cf::NoiseLevelWeights weights = cf::noise_level_weights(sde, grid, 9);
  CHECK(std::abs(weights.weight.mean().item<double>() - 1) < 1e-12);
  CHECK(std::abs(weights.factor - 2.2522) < 1e-4);
  std::vector<cf::Transition> steps;
  for (std::size_t i = 0; i < 9; ++i) steps.push_back(sde.transition(grid.step(i)));
  const auto rows = cf::TransitionRows::of(steps, at::kCPU);
  CHECK(std::abs(rows.mean_std * weights.factor - 1) < 1e-12);
  CHECK(rows.select(at::arange(2, at::kLong)).mean_std == rows.mean_std);
  check_error([&] { cf::noise_level_weights(sde, grid, 11); }, "trained_steps", "grid");
}

TEST_CASE("Flow-DPPO drops what is far and would go further, and nothing else") {
  const Tensor divergence = at::tensor({0.5, 0.5, 0.5, 0.5, 0.1, 0.2});
  const Tensor ratio = at::tensor({1.1, 0.9, 1.1, 0.9, 1.1, 1.1});
  const Tensor advantage = at::tensor({1.0, 1.0, -1.0, -1.0, 1.0, 1.0});
  const Tensor kept = cf::dppo_kept(divergence, ratio, advantage, 0.2);
  CHECK(at::equal(kept, at::tensor({0.0, 1.0, 1.0, 0.0, 1.0, 0.0}).to(kept.scalar_type())));
  // Where nothing has moved nothing is dropped, however small the threshold.
  const AtRatioOne at_one(cf::sd3_grid(8).step(3));
  const double plain = at_one.gradient(cf::Grpo{});
  CHECK(std::abs(at_one.gradient(cf::FlowDppo{.threshold = 1e-30}) - plain) < 1e-6 * plain);
}

TEST_CASE("CRD's loss is 0 where the implicit reward is the reward up to a constant of the group") {
  const Tensor r = laws::doubles({8}, 1).sigmoid();
  const Tensor group = at::arange(8, at::kLong).div(4, "floor");
  const Tensor constant = at::tensor({3.0, -1.0}, at::kDouble).index_select(0, group);
  for (const double temperature : {-1.0, 0.0, 0.4}) {
    const cf::CrdOptions options{.beta = 2, .temperature = temperature};
    const auto largest = [&](const Tensor& implicit, const Tensor& of) {
      return cf::crd_loss(implicit, r, of, options).abs().max().item<double>();
    };
    CHECK(largest(r / 2 + constant, group) < 1e-20);
    // Over the batch the constants of prompts do not cancel.
    CHECK(largest(r / 2 + constant, at::zeros_like(group)) > 1);
    CHECK(largest(r + constant, group) > 1e-4);
  }
}

TEST_CASE("CRD takes plain averages where no reward of a group is above 0, as published") {
  const Tensor r = at::tensor({0.0, 0.0, 0.5, 1.0}, at::kDouble), implicit = laws::doubles({4}, 2);
  const Tensor group = at::tensor({0, 0, 1, 1}, at::kLong);
  const Tensor hard = cf::crd_loss(implicit, r, group, {.temperature = 0});
  const Tensor plain = cf::crd_loss(implicit, r, group, {});
  CHECK(laws::relative_distance(hard.narrow(0, 0, 2), plain.narrow(0, 0, 2)) < 1e-12);
  CHECK(laws::relative_distance(hard.narrow(0, 2, 2), plain.narrow(0, 2, 2)) > 1e-3);
  // Implicit rewards of any dtype.
  CHECK(cf::crd_loss(implicit.to(at::kFloat), r, group, {}).isfinite().all().item<bool>());
}

TEST_CASE("DGPO has the gradient of the group's preference, over beta") {
  const auto batch = groups_of_four<cf::Dgpo>();
  const Tensor advantage = laws::doubles({12}, 5);
  const cf::Dgpo dgpo{.beta = 3, .kl_weight = 0, .clip_error = false};
  const Tensor gradient = gradient_of(dgpo, batch, advantage);
  const Tensor v = cf::velocity<Role::current>(batch);
  v.mutable_grad() = Tensor();
  const Tensor excess = cf::matching_error(batch, v) -
                        cf::matching_error(batch, cf::velocity<Role::reference>(batch));
  const Tensor sums = (advantage * excess).view({3, 4}).sum(1) * (dgpo.beta / 4);
  (-at::log_sigmoid(-sums)).sum().backward();
  CHECK(relative_distance(gradient * (dgpo.beta / 4), v.grad()) < 1e-6);
}

TEST_CASE("where DGPO has gone far enough the error keeps its value and loses its gradient") {
  const auto batch = groups_of_four<cf::Dgpo>();
  const Tensor advantage = laws::doubles({12}, 5);
  const cf::Dgpo clips{.clip_range = 0.05, .kl_weight = 0};
  cf::Dgpo free = clips;
  free.clip_error = false;
  cf::Statistics statistics;
  CHECK(relative_distance(clips.loss(batch, advantage, statistics),
                          free.loss(batch, advantage, statistics)) < 1e-12);
  const Tensor stopped = gradient_of(clips, batch, advantage).abs().sum(1) == 0;
  const cf::DgpoErrors errors =
      cf::dgpo_errors(cf::velocity<Role::current>(batch), cf::velocity<Role::old>(batch),
                      cf::velocity<Role::reference>(batch), batch.eps - batch.x0);
  CHECK(at::equal(stopped, cf::dgpo_clipped(errors, advantage, 0.05) != 0));
  CHECK(stopped.any().item<bool>());
  CHECK(!stopped.all().item<bool>());
}

TEST_CASE("terms that compare groups are given whole ones") {
  cf::Scores scores;
  scores.group = at::tensor({7, 2, 7, 2, 5, 7, 2, 5}, at::kLong);
  scores.reward = at::arange(8, at::kDouble);
  scores.advantage = at::where(scores.group == 2, 0.0, scores.reward - 3.5);
  const Tensor all = at::tensor({1, 3, 6, 0, 2, 5}, at::kLong).view({2, 3});
  CHECK(at::equal(cf::complete_groups(scores), all));
  CHECK(at::equal(cf::Crd{}.groups(scores), all));
  CHECK(at::equal(cf::Dgpo{}.groups(scores), all.slice(0, 1)));  // group 2 says nothing
}

TEST_CASE("DDRL is a sum of terms that there are") {
  const std::vector<std::int64_t> shape{6, 4};
  const Tensor mean = laws::doubles(shape, 1).requires_grad_();
  const Tensor mean_old = mean.detach() + 0.1 * laws::doubles(shape, 2);
  const Tensor next = laws::doubles(shape, 3), advantage = laws::doubles({6}, 4);
  const Tensor x0 = laws::doubles(shape, 5), eps = laws::doubles(shape, 6);
  const Tensor t = at::linspace(0.1, 1, 6, at::kDouble);
  const Tensor v = laws::doubles(shape, 7).requires_grad_();
  const cf::DdrlOptions options{.clip_range = 0.1, .data_weight = 0.3};
  cf::ddrl_loss({mean, mean_old, mean_old, next}, advantage, cf::ddrl_data_loss(v, x0, eps, t),
                options)
      .total.backward();
  const Tensor by_mean = mean.grad().clone(), by_v = v.grad().clone();
  mean.mutable_grad() = v.mutable_grad() = Tensor();

  // Grpo on steps whose log-density is `-mean (x' - mean)^2`, as Cps has it.
  cf::TransitionBatch<cf::Grpo::Velocities> steps;
  const Tensor one = at::ones({6}, at::kDouble);
  steps.x = at::zeros_like(next);
  steps.next = next;
  steps.transition = {0 * one, one, one, -one, 0 * one};
  steps.old_log_prob = steps.transition.log_density(next, mean_old);
  steps.velocities.get<Role::current>() = mean;
  // Flow matching to the data, weighted by time.
  cf::ForwardBatch<cf::FlowMatching::Velocities> data;
  data.x0 = x0;
  data.eps = eps;
  data.velocities.get<Role::current>() = v;
  cf::Statistics statistics;
  const Tensor policy =
      cf::Grpo{.clip_range = 0.1}.loss(steps, advantage.clamp(-5, 5), statistics).mean();
  const Tensor matching = cf::FlowMatching{}.loss(data, {}, statistics);
  (policy + 0.3 * (cf::ddrl_time_weight(t) * matching).mean()).backward();
  CHECK(relative_distance(by_mean, mean.grad()) < 1e-10);
  CHECK(relative_distance(by_v, v.grad()) < 1e-10);
  CHECK((cf::exponential_advantage(advantage) < 0).all().item<bool>());
}

TEST_CASE("a student that is its teacher has nothing to learn") {
  const std::vector<std::int64_t> shape{4, 5};
  const Tensor teachers = laws::doubles({2, 4, 5}, 1), std = at::full({1}, 0.5, at::kDouble);
  const Tensor student = teachers[0].clone().requires_grad_();
  const auto terms = cf::distillation_loss(student, teachers, {}, 2 * std.square(), 0);
  CHECK(terms.teachers[0].abs().max().item<double>() == 0);
  terms.total.sum().backward();
  // Two teachers pull as much as each does alone.
  const Tensor pull = (student.detach() - teachers[1]) / (5 * 0.25);
  CHECK(relative_distance(student.grad(), pull) < 1e-12);

  const auto policy = cf::distillation_policy_loss(terms.total.detach(), at::ones({4}, at::kDouble),
                                                   {.advantage_clip = 1000});
  CHECK(relative_distance(policy.policy, terms.total) < 1e-12);
}

TEST_CASE("samples of the policy itself are not corrected") {
  const Tensor log_prob = laws::doubles({6, 3}, 1), advantage = laws::doubles({6}, 2);
  const Tensor current = (log_prob + 0.3 * laws::doubles({6, 3}, 3)).requires_grad_();
  const auto plain =
      cf::clipped_policy_loss((current - log_prob).exp(), advantage.unsqueeze(1), 0.2);
  const cf::Rejection strict{.upper = 1.001, .lower = 0.999};
  const auto terms = cf::corrected_policy_loss({current, log_prob, log_prob}, advantage, 0.2,
                                               cf::Importance{.normalise = true}, {strict});
  CHECK(relative_distance(terms.loss, plain) < 1e-12);
  CHECK(std::abs(cf::effective_sample_share(terms.importance).item<double>() - 1) < 1e-12);
  CHECK(cf::staleness(terms.log_ratio).chi2_sequence.item<double>() == 0);
}

TEST_CASE("bounds of staleness cut weights or drop samples") {
  const Tensor lr =
      at::tensor({std::log(3.0), 0.0, std::log(0.5), 0.0, 0.0, 0.1}).to(at::kFloat).view({3, 2});
  using cf::ImportanceOver;
  const auto weights = [&](cf::Importance importance) {
    return cf::importance_weights(lr, importance);
  };
  CHECK(weights({.over = ImportanceOver::step, .upper = 2})[0][0].item<float>() == 2);
  CHECK(weights({.over = ImportanceOver::step, .upper = 2, .lower = 0.6})[0][0].item<float>() == 0);
  CHECK(weights({.over = ImportanceOver::step, .upper = 2, .lower = 0.6})[1][0].item<float>() == 0);
  CHECK(std::abs(weights({.upper = 4})[0][1].item<double>() - 3) < 1e-5);
  CHECK(at::equal(weights({.over = ImportanceOver::none}), at::ones_like(lr)));
  // k1 is minus the log-ratio: bounds of 0.5 and 3 allow ratios from 1/3 to 2.
  const cf::Rejection by_step{.by = cf::RejectBy::step, .upper = 3, .lower = 0.5};
  CHECK(cf::kept_steps(lr, by_step)[0][0].item<double>() == 0);
  CHECK(cf::kept_steps(lr, by_step)[1][0].item<double>() == 1);
  // The mean over the window halves it.
  const cf::Rejection by_mean{.by = cf::RejectBy::mean, .upper = 3, .lower = 0.5};
  CHECK(cf::kept_steps(lr, by_mean).min().item<double>() == 1);
  CHECK(cf::kept_steps(lr, std::vector{by_step, by_mean})[0][0].item<double>() == 0);
  check_error([&] { cf::kept_steps(lr, cf::Rejection{.lower = 0}); }, "lower", "above 0");
}

TEST_CASE("a difference of errors is exact where the errors are nearly equal") {
  const std::vector<std::int64_t> shape{3, 64};
  const Tensor target = laws::floats(shape, 1), a = laws::floats(shape, 2);
  const Tensor b = a + 1e-4 * laws::floats(shape, 3);
  const auto exact = [&](const Tensor& u) {
    return (u.to(at::kDouble) - target.to(at::kDouble)).square().mean(1);
  };
  CHECK(relative_distance(cf::error_difference(a, b, target), exact(a) - exact(b)) < 1e-5);
}
