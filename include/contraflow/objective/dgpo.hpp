#pragma once

/// @file
/// Direct group preference optimisation.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <contraflow/objective/informative.hpp>
#include <contraflow/objective/policy_gradient.hpp>
#include <contraflow/objective/regression.hpp>

namespace contraflow {

/// With whose errors those of `current` are compared in a group's weight.
enum class DgpoAgainst {
  reference,  ///< the frozen start
  old,        ///< who collects
};

/// Flow-matching errors of a batch, [B] each.
struct DgpoErrors {
  Tensor current;         ///< e(v_theta), with gradient
  Tensor over_old;        ///< e(v_theta) - e(v_old), see error_difference(); without gradient
  Tensor over_reference;  ///< e(v_theta) - e(v_ref), likewise
};

/// The errors of velocities.
/// @par Shape
/// all [B, ...]
inline DgpoErrors dgpo_errors(const Tensor& v, const Tensor& v_old, const Tensor& v_ref,
                              const Tensor& target) {
  return {mean_per_sample((wide(v) - target).square()), error_difference(v.detach(), v_old, target),
          error_difference(v.detach(), v_ref, target)};
}

/// DGPO's weight of each group, `W = sigmoid(S)` with `S = sum over the group of (beta / K) A
/// (e_theta - e_other)`: near 0 where the group does well already, which is then left alone (arXiv
/// 2510.08425). Without gradient.
/// @param errors of the samples
/// @param advantage clipped, [B]
/// @param group int64 [B], from 0
/// @param beta above 0
/// @param group_size K, at least 1
/// @param against whose errors are the other ones
/// @param groups their number G; unset: one more than the greatest of @p group, which is read from
///   the device
/// @return [G]
inline Tensor dgpo_group_weight(const DgpoErrors& errors, const Tensor& advantage,
                                const Tensor& group, double beta, std::int64_t group_size,
                                DgpoAgainst against = DgpoAgainst::reference,
                                std::optional<std::int64_t> groups = {}) {
  expects(beta > 0, "beta", "above 0", beta);
  expects(group_size >= 1, "group_size", "at least 1", group_size);
  const Tensor& over = against == DgpoAgainst::reference ? errors.over_reference : errors.over_old;
  const Tensor excess = advantage * over * (beta / double(group_size));
  const auto numbered = [&] {
    return group.numel() > 0 ? group.max().item<std::int64_t>() + 1 : std::int64_t{0};
  };
  return at::zeros({groups ? *groups : numbered()}, excess.options())
      .index_add(0, group, excess)
      .sigmoid();
}

/// Which samples have gone far enough, 1 or 0: those of an advantage above 0 with `exp(e_old -
/// e_theta) > 1 + c`, the others with `< 1 - c` (DGPO, arXiv 2510.08425).
/// @par Shape
/// all [B]
inline Tensor dgpo_clipped(const DgpoErrors& errors, const Tensor& advantage, double clip_range) {
  const Tensor ratio = (-errors.over_old).exp();
  return at::where(advantage > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
      .to(ratio.scalar_type());
}

/// @p x with its gradient stopped where @p stopped is not 0; its value everywhere.
/// @par Shape
/// both [B]
inline Tensor stopped_where(const Tensor& x, const Tensor& stopped) {
  return at::where(stopped != 0, x.detach(), x);
}

/// What a DGPO loss consists of, [B] each but for the weights.
struct DgpoTerms {
  Tensor group_weight;  ///< [G], see dgpo_group_weight()
  Tensor clipped;       ///< see dgpo_clipped()
  Tensor policy;        ///< `W A e_theta`
  Tensor total;         ///< with the KL
};

/// Direct group preference optimisation on flow-matching errors (DGPO, arXiv 2510.08425).
///
/// `loss = W A e_theta + kl_weight mean (v_theta - v_ref)^2`, with the weight W of the sample's
/// group, see dgpo_group_weight(): the gradient of `-log sigmoid(-S)` over beta. Where a sample has
/// gone far enough, see dgpo_clipped(), its error keeps its value and loses its gradient. The
/// samples of a group are compared at the same noise and time; groups of which a sample has no
/// score are left out, and so are those whose samples are all as good as each other.
struct Dgpo {
  using Velocities =
      Roles<Role::current, Role::old, Role::reference>;  ///< whose velocities it needs
  using Points = ForwardProcess;                         ///< where it needs them
  static constexpr std::string_view name = "dgpo";       ///< under which it is reported

  double beta = 100;          ///< strength, above 0; published 10 to 100, 2000 against old
  double clip_range = 1e-2;   ///< c, above 0; without guidance 1e-3 to 1e-5
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0
  double kl_weight = 1e-3;    ///< at least 0
  bool clip_error = true;     ///< stops the gradient of errors that have gone far enough
  bool clip_kl = false;       ///< stops that of their KL, too
  DgpoAgainst against = DgpoAgainst::reference;  ///< see there
  /// Gradient steps at the beginning for which `current` collects, then `old`; published 200, and
  /// 500 for GenEval. Published is a policy with `.old_decay = Linear{.slope = 0.001, .end = 0.3},
  /// .old_every_step = true`.
  std::int64_t current_collects = 200;

  /// See there.
  std::int64_t current_steps() const { return current_collects; }
  /// In which ranks must agree.
  std::vector<std::pair<std::string, std::string>> settings() const {
    return {{"current_collects", shown(current_collects)}};
  }

  /// Advantages, clipped.
  Tensor signal(const Scores& scores) const { return clipped_advantages(scores, advantage_clip); }
  /// Whole groups that say something.
  Tensor groups(const Scores& scores) const {
    const Tensor all = complete_groups(scores);
    const Tensor says = informative(scores).index_select(0, all.select(1, 0));
    return all.index_select(0, says.nonzero().flatten());
  }

  /// The loss of each sample, [B], whole groups.
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor& advantage, Statistics& statistics) const {
    const Tensor &v = velocity<Role::current>(batch), &v_ref = velocity<Role::reference>(batch);
    const DgpoErrors errors =
        dgpo_errors(v, velocity<Role::old>(batch), v_ref, batch.eps - batch.x0);
    const DgpoTerms terms =
        of_errors(errors, mean_per_sample((wide(v) - wide(v_ref)).square()), advantage,
                  unit_of_rows(batch), batch.unit_size, batch.x0.size(0) / batch.unit_size);
    statistics.add("group_weight", terms.group_weight);
    statistics.add("clip_fraction", terms.clipped);
    return terms.total;
  }

  /// The loss of samples out of their errors.
  /// @param errors of the samples
  /// @param kl `mean (v_theta - v_ref)^2`, [B]
  /// @param advantage clipped, [B]
  /// @param group of each, int64 [B] from 0
  /// @param group_size K
  /// @param groups see dgpo_group_weight()
  /// @throws Error if an option is out of range
  DgpoTerms of_errors(const DgpoErrors& errors, const Tensor& kl, const Tensor& advantage,
                      const Tensor& group, std::int64_t group_size,
                      std::optional<std::int64_t> groups = {}) const {
    expects(clip_range > 0, "clip_range", "above 0", clip_range);
    expects(kl_weight >= 0, "kl_weight", "at least 0", kl_weight);
    const Tensor a = advantage.to(errors.current.scalar_type());
    DgpoTerms terms{dgpo_group_weight(errors, a, group, beta, group_size, against, groups),
                    dgpo_clipped(errors, a, clip_range),
                    {},
                    {}};
    const Tensor e = clip_error ? stopped_where(errors.current, terms.clipped) : errors.current;
    terms.policy = terms.group_weight.index_select(0, group) * a * e;
    terms.total = terms.policy + kl_weight * (clip_kl ? stopped_where(kl, terms.clipped) : kl);
    return terms;
  }
};

}  // namespace contraflow
