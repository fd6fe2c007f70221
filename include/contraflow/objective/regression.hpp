#pragma once

/// @file
/// Terms made of the flow-matching error.

#include <algorithm>
#include <string_view>
#include <vector>

#include <contraflow/objective/concept.hpp>

namespace contraflow {

/// `mean (v - (eps - x0))^2` over all but the batch: the flow-matching error of a velocity, [B].
template <class Batch>
Tensor matching_error(const Batch& batch, const Tensor& v) {
  return mean_per_sample((wide(v) - (batch.eps - batch.x0)).square());
}

/// `mean (a - v)^2 - mean (b - v)^2`, [B]: how much larger one flow-matching error is than another,
/// without the difference of two nearly equal numbers.
/// @par Shape
/// all [B, ...]
inline Tensor error_difference(const Tensor& a, const Tensor& b, const Tensor& target) {
  const Tensor first = wide(a), second = wide(b);
  return mean_per_sample((first - second) * (first + second - 2 * target));
}

namespace detail {

/// Positions of the best and of the worst sample of each group, groups without difference left out.
/// The first counts where several are equal.
/// @return int64 [P, 2]
inline Tensor best_and_worst(const Scores& scores) {
  struct Extremes {
    std::int64_t group, best, worst;
  };
  const Tensor reward = scores.reward.contiguous(), group = scores.group.contiguous();
  const auto* r = data_of<const double>(reward);
  const auto* g = data_of<const std::int64_t>(group);
  std::vector<Extremes> extremes;
  for (std::int64_t i = 0; i < group.numel(); ++i) {
    auto found = std::find_if(extremes.begin(), extremes.end(),
                              [&](const Extremes& known) { return known.group == g[i]; });
    if (found == extremes.end()) {
      extremes.push_back({g[i], i, i});
      continue;
    }
    if (r[i] > r[found->best]) found->best = i;
    if (r[i] < r[found->worst]) found->worst = i;
  }
  std::vector<std::int64_t> flat;
  for (const Extremes& known : extremes) {
    if (r[known.best] > r[known.worst]) flat.insert(flat.end(), {known.best, known.worst});
  }
  return at::tensor(flat, at::kLong).view({-1, 2});
}

}  // namespace detail

/// Advantage-weighted matching (AWM, arXiv 2509.25050): the policy gradient with the flow-matching
/// error in the place of the negative log-density.
///
/// `ratio = exp(e_old - e_theta)`, `loss = max(-a ratio, -a clip(ratio, 1 - c, 1 + c))`, with the
/// errors at the same noise and time. Needs no trajectory and no stochastic solver.
struct Awm {
  using Velocities = Roles<Role::current, Role::old>;  ///< whose velocities it needs
  using Points = ForwardProcess;                       ///< where it needs them
  static constexpr std::string_view name = "awm";      ///< under which it is reported

  double clip_range = 0.2;    ///< c, above 0
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0

  /// Advantages, clipped.
  Tensor signal(const Scores& scores) const {
    expects(advantage_clip > 0, "advantage_clip", "above 0", advantage_clip);
    return scores.advantage.clamp(-advantage_clip, advantage_clip);
  }
  /// Samples that differ from their group.
  Tensor keep(const Scores& scores) const { return scores.advantage != 0; }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics&) const {
    expects(clip_range > 0, "clip_range", "above 0", clip_range);
    const Tensor ratio = (matching_error(batch, velocity<Role::old>(batch)) -
                          matching_error(batch, velocity<Role::current>(batch)))
                             .exp();
    const Tensor a = advantage.to(ratio.scalar_type());
    return at::maximum(-a * ratio, -a * ratio.clamp(1 - clip_range, 1 + clip_range));
  }
};

/// Direct preference optimisation on the best and the worst sample of each group (Diffusion-DPO,
/// arXiv 2311.12908).
///
/// `loss = -log sigmoid(-beta / 2 [(e_theta - e_ref)(best) - (e_theta - e_ref)(worst)])` with
/// flow-matching errors e under the same noise and time for both.
struct Dpo {
  using Velocities = Roles<Role::current, Role::reference>;  ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "dpo";            ///< under which it is reported

  double beta = 100;  ///< strength of the reference, above 0

  /// Best and worst of each group, int64 [P, 2].
  Tensor pairs(const Scores& scores) const { return detail::best_and_worst(scores); }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    expects(beta > 0, "beta", "above 0", beta);
    const Tensor excess = (matching_error(batch, velocity<Role::current>(batch)) -
                           matching_error(batch, velocity<Role::reference>(batch)))
                              .view({-1, 2});
    const Tensor margin = (excess.select(1, 1) - excess.select(1, 0)) * (beta / 2);
    statistics.add("dpo_accuracy", (margin > 0).to(at::kFloat));
    return -at::log_sigmoid(margin).repeat_interleave(2);
  }
};

/// Reward-weighted regression: flow matching with samples weighted by `exp(a / temperature)`,
/// weights scaled to a mean of 1 (Peters and Schaal 2007).
struct RewardWeighted {
  using Velocities = Roles<Role::current>;                     ///< whose velocities it needs
  using Points = ForwardProcess;                               ///< where it needs them
  static constexpr std::string_view name = "reward_weighted";  ///< under which it is reported

  double temperature = 1;  ///< above 0

  /// The weight of each sample.
  Tensor signal(const Scores& scores) const {
    expects(temperature > 0, "temperature", "above 0", temperature);
    const Tensor a = scores.advantage / temperature;
    return a.softmax(0) * static_cast<double>(a.numel());
  }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& weight, Statistics&) const {
    const Tensor error = matching_error(batch, velocity<Role::current>(batch));
    return error * weight.to(error.scalar_type());
  }
};

/// Supervised fine-tuning on the best sample of each group, groups without difference left out.
struct BestOfGroup {
  using Velocities = Roles<Role::current>;                   ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "best_of_group";  ///< under which it is reported

  /// 1 for the best of its group, else 0.
  Tensor signal(const Scores& scores) const { return keep(scores).to(at::kFloat); }
  /// The best of each group.
  Tensor keep(const Scores& scores) const {
    return at::zeros_like(scores.group, at::kBool)
        .index_fill_(0, detail::best_and_worst(scores).select(1, 0), true);
  }

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& is_best, Statistics&) const {
    return matching_error(batch, velocity<Role::current>(batch)) * is_best;
  }
};

/// Plain flow matching, `mean (v_theta - (eps - x0))^2`: pre-training, or a regulariser.
struct FlowMatching {
  using Velocities = Roles<Role::current>;                   ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "flow_matching";  ///< under which it is reported

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics&) const {
    return matching_error(batch, velocity<Role::current>(batch));
  }
};

}  // namespace contraflow
