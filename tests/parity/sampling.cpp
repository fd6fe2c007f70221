// Grids, solvers, schedules and advantages.

#include <torch/torch.h>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/advantage/by_step.hpp>
#include <contraflow/advantage/missing_scores.hpp>
#include <contraflow/advantage/per_reward.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/integrate.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/time/schedule.hpp>

#include "parity/case.hpp"

namespace parity {

namespace {

cf::Step step_of(const Case& c) {
  const cf::TimeGrid grid = grid_of(c);
  const auto index = c.setting<std::size_t>("index");
  if (index >= grid.steps()) throw cf::Error("index", "a step of the grid", cf::shown(index));
  return grid.step(index);
}

void time_grid(Case& c) {
  const auto table = c.setting<int>("num_train_timesteps");
  const cf::TimeGrid grid = cf::sd3_grid(
      c.setting<int>("steps"), {.shift = c.setting<double>("shift"), .num_train_timesteps = table});
  const Tensor sigmas = at::tensor(grid.sigmas(), at::kDouble);
  c.compare("out.sigmas", sigmas);
  c.compare("out.timesteps", sigmas.slice(0, 0, -1) * table);
}

// A solver whose noise is given instead of drawn.
template <class S>
struct Replayed {
  using State = typename S::State;
  S solver;
  Tensor noise;  // [steps, B, ...]

  State init(const Tensor& x) const { return solver.init(x); }

  template <class V>
  Tensor step(V& velocity, const Tensor& x, const cf::Step& step, State& state,
              cf::Generator& generator) const {
    Tensor next = solver.step(velocity, x, step, state, generator);
    if constexpr (cf::StochasticSolver<S>) {
      const cf::Transition transition = solver.transition(step);
      if (!transition.is_stochastic()) return next;
      const Tensor own = noise.select(0, static_cast<std::int64_t>(step.index));
      next = at::add(state.mean, own, transition.std);
    }
    return next;
  }
};

template <class S>
void trajectory(Case& c, const S& solver) {
  const auto velocity = [&](const Tensor& x, double sigma) {
    return c.in("M") * x + c.in("C") * sigma + x.tanh();
  };
  std::vector<Tensor> states{c.in("x")}, log_probs;
  const auto watch = [&](const cf::Step& step, const Tensor&, const Tensor& next,
                         const auto& state) {
    states.push_back(next);
    if constexpr (cf::StochasticSolver<S>) {
      const cf::Transition transition = solver.transition(step);
      if (!transition.is_stochastic()) return;
      log_probs.push_back(transition.log_density(next, state.mean));
    }
  };
  cf::Generator generator = cf::seeded(0);
  const Replayed<S> replayed{solver, c.has("in.noise") ? c.in("noise") : Tensor()};
  cf::integrate(replayed, velocity, c.in("x"), grid_of(c), generator, watch);
  c.compare("out.x", at::stack(states));
  if (c.has("out.log_prob")) c.compare("out.log_prob", at::stack(log_probs));
}

void solver(Case& c) {
  const auto name = c.setting<std::string>("solver");
  const bool is_ode = c.setting<bool>("deterministic");
  const double eta = is_ode ? 0 : c.setting<double>("eta");
  if (!is_ode && eta > 0 && !c.has("in.noise")) throw cf::Error("in.noise", "the noise", "none");
  if (name == "flow" && is_ode) return trajectory(c, cf::Euler{});
  if (name == "flow") return trajectory(c, cf::FlowSde{.noise_level = eta});
  if (name == "dance") return trajectory(c, cf::DanceSde{.noise_level = eta});
  if (name == "ddim") return trajectory(c, cf::Ddim{.eta = eta});
  if (name == "dpm1") return trajectory(c, cf::DpmSolver<1>{});
  if (name == "dpm2") return trajectory(c, cf::DpmSolver<2>{});
  throw cf::Error("solver", "flow, dance, ddim, dpm1 or dpm2", name);
}

void flow_sde_score(Case& c) {
  const cf::FlowSde sde{.noise_level = c.setting<double>("noise_level")};
  const cf::Transition transition = sde.transition(step_of(c));
  const Tensor mean = transition.mean(c.in("x"), c.in("v"));
  c.compare("out.mean", mean);
  c.compare("out.std", at::full_like(c.expected("out.std"), transition.std, at::kDouble));
  c.compare("out.log_prob", transition.log_density(c.in("next"), mean));
}

void cps_step(Case& c) {
  const cf::Cps sde{.noise_level = c.setting<double>("noise_level")};
  const cf::Transition transition = sde.transition(step_of(c));
  const Tensor mean = transition.mean(c.in("x"), c.in("v"));
  const Tensor next = at::add(mean, c.in("noise"), transition.std);
  c.compare("out.mean", mean);
  c.compare("out.std", at::full_like(c.expected("out.std"), transition.std, at::kDouble));
  c.compare("out.next", next);
  c.compare("out.log_prob", transition.log_density(next, mean));
}

void advantages(Case& c) {
  const Tensor reward = c.in("reward").to(at::kDouble), group = c.in("prompt").to(at::kLong);
  const auto spread = c.setting<bool>("global_std") ? cf::Spread::global : cf::Spread::group;
  const cf::GroupAdvantage advantage{.spread = spread, .epsilon = c.setting<double>("epsilon")};
  c.compare("out.advantage", advantage(reward, group));
  const cf::GroupStatistics statistics = cf::group_statistics(reward, group);
  c.compare("out.zero_std_ratio", statistics.zero_std_ratio);
  c.compare("out.reward_std_mean", statistics.mean_std);
  // The published trainer holds a reward once for each training time of its sample, two in these
  // cases; that moves the percentiles of the small groups.
  const Tensor held = reward.repeat_interleave(2), held_group = group.repeat_interleave(2);
  std::vector<double> tops;
  for (const double percent : {100, 75, 50, 25, 10}) {
    tops.push_back(cf::mean_of_top(held, held_group, percent));
  }
  c.compare("out.mean_of_top_100_75_50_25_10", at::tensor(tops, at::kDouble));
}

void decay(Case& c, const cf::Schedule& schedule) {
  std::vector<double> values;
  for (const double step : doubles(c.in("step"))) {
    values.push_back(schedule(static_cast<std::int64_t>(step)));
  }
  c.compare("out.decay", at::tensor(values, at::kDouble));
}

void old_policy_decay(Case& c) {
  switch (c.setting<int>("type")) {
    case 0:
      return decay(c, cf::Constant{0});
    case 1:
      return decay(c, cf::Ramp{.rate = 0.001, .max = 0.5});
    case 2:
      return decay(c, cf::Ramp{.rate = 0.0075, .max = 0.999, .flat = 75});
    default:
      throw cf::Error("type", "0, 1 or 2", cf::shown(c.setting<int>("type")));
  }
}

void ema_decay(Case& c) { decay(c, cf::WarmingUp{.max = c.setting<double>("decay")}); }

void decay_schedule(Case& c) {
  decay(c, cf::Linear{.start = c.setting<std::int64_t>("start"),
                      .value = c.setting<double>("value"),
                      .slope = c.setting<double>("slope"),
                      .end = c.setting<double>("end")});
}

cf::Guard guard_named(const std::string& name) {
  if (name == "add") return cf::Guard::add;
  if (name == "floor") return cf::Guard::floor;
  if (name == "variance") return cf::Guard::variance;
  throw cf::Error("guard", "add, floor, variance or none", name);
}

void gdpo_advantages(Case& c) {
  const auto batch = c.setting<std::string>("batch_guard");
  cf::Gdpo gdpo;
  gdpo.unbiased = gdpo.of_each.unbiased = c.setting<bool>("unbiased");
  gdpo.of_each.guard = guard_named(c.setting<std::string>("group_guard"));
  gdpo.of_each.epsilon = c.setting<double>("group_epsilon");
  if (batch == "none") {
    gdpo.batch_spread = cf::BatchSpread::none;
  } else {
    gdpo.batch_guard = guard_named(batch);
    gdpo.batch_epsilon = c.setting<double>("batch_epsilon");
  }
  const Tensor rewards = c.in("rewards").to(at::kDouble), group = c.in("prompt").to(at::kLong);
  const Tensor weights = c.in("weights").to(at::kDouble);
  c.compare("out.reward_advantage", gdpo.each(rewards, group));
  c.compare("out.combined", gdpo.combined(rewards, weights, group));
  c.compare("out.advantage", gdpo.of_rewards(rewards, weights, group));
}

void tempflow_advantages(Case& c) {
  const auto spread = c.setting<bool>("global_std") ? cf::Spread::global : cf::Spread::group;
  const cf::GroupAdvantage advantage{.spread = spread, .epsilon = c.setting<double>("epsilon")};
  c.compare("out.advantage", cf::advantages_by_step(advantage, c.in("reward").to(at::kDouble),
                                                    c.in("prompt").to(at::kLong)));
}

void ddrl_advantages(Case& c) {
  c.compare("out.advantage", cf::advantages_of_valid(c.in("reward").to(at::kDouble), c.in("valid"),
                                                     c.setting<double>("epsilon")));
}

}  // namespace

Kinds kinds_of_sampling() {
  return {{"time_grid", time_grid},
          {"solver", solver},
          {"flow_sde_score", flow_sde_score},
          {"cps_step", cps_step},
          {"advantages", advantages},
          {"old_policy_decay", old_policy_decay},
          {"ema_decay", ema_decay},
          {"decay_schedule", decay_schedule},
          {"gdpo_advantages", gdpo_advantages},
          {"tempflow_advantages", tempflow_advantages},
          {"ddrl_advantages", ddrl_advantages}};
}

}  // namespace parity
