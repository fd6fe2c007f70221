// Forward and backward of every objective term on given velocities, 48 x 16 x 64 x 64.

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

namespace {

constexpr std::int64_t batch_size = 48;

cf::Tensor latents(cf::Generator& generator) {
  return cf::normal({batch_size, 16, 64, 64}, generator);
}

cf::Scores scores_of_batch() {
  cf::Scores scores;
  scores.reward = at::arange(batch_size, at::kDouble);
  scores.group = at::arange(batch_size, at::kLong).floor_divide(8);
  scores.advantage = cf::GroupAdvantage{}(scores.reward, scores.group);
  return scores;
}

template <class RoleSet>
void fill(cf::Velocities<RoleSet>& velocities, cf::Generator& generator) {
  RoleSet::for_each([&](auto role) { velocities.template get<role()>() = latents(generator); });
  velocities.template get<cf::Role::current>().set_requires_grad(true);
}

template <class RoleSet>
auto forward_batch(cf::Generator& generator) {
  cf::ForwardBatch<RoleSet> batch;
  batch.x0 = latents(generator);
  batch.eps = latents(generator);
  batch.t = cf::uniform({batch_size}, generator);
  batch.x_t = cf::interpolate(batch.x0, batch.eps, batch.t);
  fill(batch.velocities, generator);
  return batch;
}

template <class RoleSet>
auto transition_batch(cf::Generator& generator) {
  cf::TransitionBatch<RoleSet> batch;
  const cf::TimeGrid grid = cf::sd3_grid(10);
  batch.x = latents(generator);
  batch.next = latents(generator);
  batch.old_log_prob = cf::uniform({batch_size}, generator);
  batch.old_mean = latents(generator);
  batch.transition = cf::TransitionRows::of({cf::FlowSde{}.transition(grid.step(3))},
                                            at::zeros({batch_size}, at::kLong));
  batch.transition.dt = at::full({batch_size}, grid.step(3).to - grid.step(3).from);
  fill(batch.velocities, generator);
  return batch;
}

/// Of the only selection that the objective has: all terms look at the same points.
template <class Term>
void forward_and_backward(benchmark::State& state, Term term) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  cf::Generator generator = cf::seeded(0);
  const auto sum = cf::as_sum(term);
  using Sum = std::remove_cvref_t<decltype(sum)>;
  auto shares = sum.shares(scores_of_batch(), at::kCPU);
  const cf::Tensor members = at::arange(batch_size);
  Sum::for_each_selection([&](auto selection) {
    using Selection = decltype(selection);
    using RoleSet = typename Sum::template VelocitiesOf<Selection>;
    const auto batch = [&] {
      if constexpr (Sum::uses_transitions) {
        return transition_batch<RoleSet>(generator);
      } else {
        return forward_batch<RoleSet>(generator);
      }
    }();
    sum.template set_scales<Selection>(shares, members, 1);
    for (auto _ : state) {
      cf::Statistics statistics;
      sum.template loss<Selection>(batch, members, shares, statistics).backward();
      cf::velocity<cf::Role::current>(batch).mutable_grad().reset();
    }
  });
}

/// What the fused operation replaces: the same loss in operations on whole tensors.
void composed_nft(benchmark::State& state) {
  at::set_num_threads(static_cast<int>(state.range(0)));
  cf::Generator generator = cf::seeded(0);
  cf::NftInputs in{latents(generator),
                   latents(generator),
                   latents(generator),
                   latents(generator),
                   latents(generator),
                   cf::uniform({batch_size}, generator),
                   cf::uniform({batch_size}, generator)};
  in.v.set_requires_grad(true);
  const cf::kernels::AdaptiveWeighting weighting;
  for (auto _ : state) {
    cf::detail::composed_nft_loss(in, {1, 1e-4, true}, &weighting, {}).total.mean().backward();
    in.v.mutable_grad().reset();
  }
}

}  // namespace

BENCHMARK(composed_nft)->Arg(1)->Arg(2)->UseRealTime();

#define CONTRAFLOW_TERM(name, ...) \
  BENCHMARK_CAPTURE(forward_and_backward, name, __VA_ARGS__)->Arg(1)->Arg(2)->UseRealTime()

CONTRAFLOW_TERM(nft, cf::Nft{});
CONTRAFLOW_TERM(nft_with_velocity_kl, cf::Nft{} + 1e-4 * cf::VelocityKl{});
CONTRAFLOW_TERM(paper_nft, cf::PaperNft{});
CONTRAFLOW_TERM(velocity_kl, cf::VelocityKl{});
CONTRAFLOW_TERM(awm, cf::Awm{});
CONTRAFLOW_TERM(dpo, cf::Dpo{});
CONTRAFLOW_TERM(reward_weighted, cf::RewardWeighted{});
CONTRAFLOW_TERM(best_of_group, cf::BestOfGroup{});
CONTRAFLOW_TERM(flow_matching, cf::FlowMatching{});
CONTRAFLOW_TERM(grpo, cf::Grpo{});
CONTRAFLOW_TERM(grpo_guard, cf::GrpoGuard{});
CONTRAFLOW_TERM(tempflow, cf::TempFlowGrpo{});
CONTRAFLOW_TERM(dppo, cf::FlowDppo{});
CONTRAFLOW_TERM(grpo_with_transition_kl, cf::Grpo{} + 0.04 * cf::TransitionKl{});
