#pragma once

/// @file
/// Terms on the gradient of the reward: ReFL, DRaFT, DRTune.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/objective/concept.hpp>
#include <contraflow/reward/differentiable.hpp>
#include <contraflow/solver/reward_path.hpp>

namespace contraflow {

namespace detail {

/// Names and texts of options, of which @p clip is one.
inline std::vector<std::pair<std::string, std::string>> path_settings(
    const std::optional<double>& clip, std::vector<std::pair<std::string, std::string>> others) {
  others.emplace_back("clip", clip ? shown(*clip) : "none");
  return others;
}

/// One of the last @p among steps of a grid, evenly.
inline std::size_t late_step(const TimeGrid& grid, std::int64_t among, Generator& generator) {
  const std::int64_t back = integers(among, 1, generator).item<std::int64_t>();
  return grid.steps() - 1 - static_cast<std::size_t>(back);
}

/// The loss of each sample, [B], a mean over the versions that it has in @p x0 [k B, ...].
template <class Batch>
Tensor path_loss(const Batch& batch, const Tensor& x0, const std::optional<double>& clip,
                 std::string_view reward, Statistics& statistics) {
  const Tensor scores = batch.reward(x0);
  statistics.add(reward, scores);
  return reward_loss(scores, clip, 1).reshape({-1, batch.prompt.numel()}).mean(0);
}

}  // namespace detail

/// ReFL (ImageReward, arXiv 2304.05977): the reward of the prediction of x0 at a random late step,
/// with the gradient of the velocity there alone; what comes before has none.
///
/// `loss = max(clip - R(x - sigma v_theta), 0)`, or `-R` without a clip. A weight in front of the
/// term is the published scale (1e-3). The step is drawn once an epoch; see refl_x0(). The states
/// are those of who collects.
struct Refl {
  using Velocities = Roles<Role::current>;          ///< whose velocities it needs
  using Points = RecordedPath;                      ///< where it needs them
  static constexpr std::string_view name = "refl";  ///< under which it is reported

  std::int64_t last_steps = 10;     ///< among so many of the grid's last, from 1 to all
  std::optional<double> clip = {};  ///< see reward_loss(); published 2 (ImageReward), 0.55 (HPSv2)

  /// One late step.
  /// @throws Error if there are not as many steps
  std::vector<std::size_t> steps(const TimeGrid& grid, Generator& generator) const {
    expects(last_steps >= 1 && last_steps <= std::int64_t(grid.steps()), "last_steps",
            "a number of steps from 1 to those of the grid", last_steps);
    return {detail::late_step(grid, last_steps, generator)};
  }
  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    const Tensor x0 = refl_x0(batch.velocity(), batch.states[0], batch.rest(), 0);
    return detail::path_loss(batch, x0, clip, "refl_reward", statistics);
  }
  /// In which ranks must agree.
  std::vector<std::pair<std::string, std::string>> settings() const {
    return detail::path_settings(clip, {{"last_steps", shown(last_steps)}});
  }
};

/// DRaFT-K (arXiv 2309.17400): the reward of the end of the chain, whose last K steps carry
/// gradients.
///
/// `loss = max(clip - R(x0), 0)`, or `-R` without a clip, with x0 the end of K steps of @p S from
/// the state that the rollout had there, see draft_k_x0(): for Euler in both, x0 of the rollout as
/// long as no gradient step has been made since. A state carries no gradient. The state of a
/// multistep solver begins anew.
/// @tparam S a Solver, of the last steps; the first are made by the trainer's
template <class S = Euler>
struct DraftK {
  using Velocities = Roles<Role::current>;             ///< whose velocities it needs
  using Points = RecordedPath;                         ///< where it needs them
  static constexpr std::string_view name = "draft_k";  ///< under which it is reported

  std::size_t last_steps = 1;       ///< K, from 1 to all
  std::optional<double> clip = {};  ///< see reward_loss()
  /// With K above 1 the activations of one velocity are held at a time, and computed once more;
  /// false: those of all K velocities.
  bool recompute = true;
  S solver = {};  ///< makes the last steps

  /// The first of the last K steps.
  /// @throws Error if there are not as many steps
  std::vector<std::size_t> steps(const TimeGrid& grid, Generator&) const {
    expects(last_steps >= 1 && last_steps <= grid.steps(), "last_steps",
            "a number of steps from 1 to those of the grid", last_steps);
    return {grid.steps() - last_steps};
  }
  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    Generator draws = batch.draws();
    const Tensor x0 = draft_k_x0(solver, batch.velocity(recompute && last_steps > 1),
                                 batch.states[0], batch.rest(), last_steps, draws);
    return detail::path_loss(batch, x0, clip, "draft_k_reward", statistics);
  }
  /// In which ranks must agree.
  std::vector<std::pair<std::string, std::string>> settings() const {
    return detail::path_settings(clip, {{"last_steps", shown(last_steps)}});
  }
};

/// DRaFT-LV (arXiv 2309.17400): the reward of the end of the chain with the gradient of its last
/// step, and of predictions from copies of it that are noised again, see draft_lv_x0(): an estimate
/// of the gradient that varies less.
///
/// `loss = mean over 1 + copies of max(clip - R, 0)`, or of `-R` without a clip.
struct DraftLv {
  using Velocities = Roles<Role::current>;              ///< whose velocities it needs
  using Points = RecordedPath;                          ///< where it needs them
  static constexpr std::string_view name = "draft_lv";  ///< under which it is reported

  std::int64_t copies = 2;          ///< at least 0
  std::optional<double> clip = {};  ///< see reward_loss()
  /// Activations of one velocity are held at a time, and computed once more.
  bool recompute = true;

  /// The last step.
  std::vector<std::size_t> steps(const TimeGrid& grid, Generator&) const {
    return {grid.steps() - 1};
  }
  /// The loss of each sample, [B].
  /// @throws Error if the option is out of range
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    expects(copies >= 0, "copies", "at least 0", copies);
    const Tensor& x = batch.states[0];
    Generator draws = batch.draws();
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.insert(shape.begin(), copies);
    const Tensor noise = at::empty(shape, x.options());
    for (const Tensor& copy : noise.unbind(0)) copy.copy_(normal_like(x, draws));
    const Tensor x0 = draft_lv_x0(batch.velocity(recompute && copies > 0), x, batch.rest(), noise);
    return detail::path_loss(batch, x0, clip, "draft_lv_reward", statistics);
  }
  /// In which ranks must agree.
  std::vector<std::pair<std::string, std::string>> settings() const {
    return detail::path_settings(clip, {{"copies", shown(copies)}});
  }
};

/// DRTune (arXiv 2405.00760): the reward of the prediction of x0 at a random late stop, with the
/// gradients of the velocities at some equally spaced steps up to there, the input of each cut off.
///
/// `loss = max(clip - R(x0), 0)`, or `-R` without a clip; see drtune_x0() and drtune_x0_of(): the
/// states are those of the rollout, with as many evaluations as trained steps. The stop is drawn
/// once an epoch.
struct DrTune {
  using Velocities = Roles<Role::current>;            ///< whose velocities it needs
  using Points = RecordedPath;                        ///< where it needs them
  static constexpr std::string_view name = "drtune";  ///< under which it is reported

  std::int64_t train_steps = 3;     ///< of which the stop is one, at least 1
  double stop_share = 0.4;          ///< the stop is among this share of the last, in (0, 1]
  std::optional<double> clip = {};  ///< see reward_loss()
  /// Activations of one velocity are held at a time, and computed once more.
  bool recompute = true;

  /// The trained steps, of which the last is the stop.
  /// @throws Error if an option is out of range
  std::vector<std::size_t> steps(const TimeGrid& grid, Generator& generator) const {
    expects(train_steps >= 1, "train_steps", "at least 1", train_steps);
    expects(stop_share > 0 && stop_share <= 1, "stop_share", "a value in (0, 1]", stop_share);
    // The small addition keeps a product such as 0.29 * 100 from losing its last step to rounding.
    const auto share = static_cast<std::int64_t>(double(grid.steps()) * stop_share + 1e-9);
    const auto stop =
        std::int64_t(detail::late_step(grid, std::max<std::int64_t>(share, 1), generator));
    std::vector<std::size_t> trained;
    for (std::int64_t k = 1; k <= train_steps; ++k) {
      const std::int64_t behind = (stop + 1) * k / train_steps;
      const auto step = static_cast<std::size_t>(behind - 1);
      if (behind > 0 && (trained.empty() || trained.back() != step)) trained.push_back(step);
    }
    return trained;
  }
  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    const Tensor x0 = drtune_x0_of(batch.velocity(recompute && batch.steps.size() > 1),
                                   batch.states, batch.grid, batch.steps);
    return detail::path_loss(batch, x0, clip, "drtune_reward", statistics);
  }
  /// In which ranks must agree.
  std::vector<std::pair<std::string, std::string>> settings() const {
    return detail::path_settings(
        clip, {{"train_steps", shown(train_steps)}, {"stop_share", shown(stop_share)}});
  }
};

}  // namespace contraflow
