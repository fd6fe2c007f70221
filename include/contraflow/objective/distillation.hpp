#pragma once

/// @file
/// Distillation of teachers at states of the student's own making.

#include <string_view>
#include <vector>

#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/regression.hpp>

namespace contraflow {

/// What a distillation loss consists of.
struct DistillationTerms {
  Tensor teachers;  ///< the loss towards each teacher, [K, B]
  Tensor anchor;    ///< the one towards the anchor, [B]; undefined without one
  Tensor total;     ///< the sum over teachers, and the weighted anchor, [B]
};

/// `sum over teachers of mean (student - teacher)^2 / divisor + anchor_weight mean (student -
/// anchor)^2 / divisor`: distillation on means of transitions or on velocities (DiffusionOPD, and
/// Flow-OPD with an anchor).
///
/// On means of transitions with the divisor `2 std^2` it is a KL divergence; published programs
/// divide by twice the squared level term, or by 2. On velocities the divisor is 1.
/// @param student [B, ...], with gradient
/// @param teachers [K, B, ...]
/// @param anchor [B, ...], or undefined
/// @param divisor [B] or [1]
/// @param anchor_weight at least 0
inline DistillationTerms distillation_loss(const Tensor& student, const Tensor& teachers,
                                           const Tensor& anchor, const Tensor& divisor,
                                           double anchor_weight) {
  expects(anchor_weight >= 0, "anchor_weight", "at least 0", anchor_weight);
  const auto towards = [&](const Tensor& other) {
    return mean_per_sample((wide(student) - other).square()) / divisor;
  };
  std::vector<Tensor> losses;
  for (const Tensor& teacher : teachers.unbind(0)) losses.push_back(towards(teacher));
  DistillationTerms terms{at::stack(losses), {}, {}};
  terms.total = terms.teachers.sum(0);
  if (!anchor.defined()) return terms;
  terms.anchor = towards(anchor);
  terms.total = terms.total + anchor_weight * terms.anchor;
  return terms;
}

/// Settings of distillation as a policy gradient.
struct DistillationPolicyOptions {
  double scale = -1;          ///< of the divergence in the advantage, below 0
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0
  double clip_range = 1e-4;   ///< c, above 0
  bool detach = true;         ///< the advantage carries no gradient
  /// The mean over all pairs of an advantage and a ratio, a mistake of a published program, to
  /// compare with; false: each advantage with its own ratio.
  bool every_pair = false;
};

/// What distillation as a policy gradient consists of, [B] each.
struct DistillationPolicyTerms {
  Tensor advantage;  ///< `clip(scale D)`
  Tensor policy;     ///< the clipped loss
};

/// Distillation as a policy gradient: the advantage of a step is minus its divergence from the
/// teacher's (Flow-OPD, `kl_only`).
///
/// `a = clip(scale D, -clip, clip)`, `loss = max(-a ratio, -a clip(ratio, 1 - c, 1 + c))`.
/// @param divergence D of each step from the teacher's, [B]
/// @param ratio of each step, [B]
/// @param options settings
/// @throws Error if an option is out of range
inline DistillationPolicyTerms distillation_policy_loss(const Tensor& divergence,
                                                        const Tensor& ratio,
                                                        const DistillationPolicyOptions& options) {
  expects(options.advantage_clip > 0, "advantage_clip", "above 0", options.advantage_clip);
  expects(options.clip_range > 0, "clip_range", "above 0", options.clip_range);
  DistillationPolicyTerms terms;
  terms.advantage =
      (options.scale * divergence).clamp(-options.advantage_clip, options.advantage_clip);
  const Tensor a = options.detach ? terms.advantage.detach() : terms.advantage;
  terms.policy =
      options.every_pair
          ? clipped_policy_loss(ratio.unsqueeze(0), a.unsqueeze(1), options.clip_range).mean(0)
          : clipped_policy_loss(ratio, a, options.clip_range);
  return terms;
}

/// By what the distance of means of transitions is divided, `2 d^2`.
enum class DistillationScale {
  level,  ///< d is the level term of the step: the KL times the length of the step
  std,    ///< d is the step's std: the KL itself
  one,    ///< d is 1
};

namespace detail {
/// `2 d^2` of each step, [B].
inline Tensor distillation_divisor(const TransitionRows& transition, DistillationScale scale) {
  if (scale == DistillationScale::one) return at::full_like(transition.std, 2);
  return 2 * (scale == DistillationScale::std ? transition.std : transition.levels()).square();
}
/// The divergence of the step of `current` from that of another role, [B].
template <Role R, class Batch>
Tensor divergence_from(const Batch& batch, DistillationScale scale) {
  const TransitionRows& transition = batch.transition;
  const Tensor teacher = transition.mean(batch.x, velocity<R>(batch));
  return distillation_loss(mean_of_current(batch), teacher.unsqueeze(0), {},
                           distillation_divisor(transition, scale), 0)
      .total;
}
}  // namespace detail

/// `mean (v_theta - v_teacher)^2` on samples noised afresh: distillation of velocities.
///
/// The teacher is a frozen model beside the policy's: `with_role<Role::teacher>(policy, model)`.
/// Several are summed, each under a role of its own.
/// @tparam Teacher whose velocity is learnt
template <Role Teacher = Role::teacher>
struct VelocityDistillation {
  using Velocities = Roles<Role::current, Teacher>;         ///< whose velocities it needs
  using Points = ForwardProcess;                            ///< where it needs them
  static constexpr std::string_view name = "distillation";  ///< under which it is reported

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics&) const {
    const Tensor student = wide(velocity<Role::current>(batch));
    return distillation_loss(student, wide(velocity<Teacher>(batch)).unsqueeze(0), {},
                             at::ones({1}, student.options()), 0)
        .total;
  }
};

/// `mean (mean - mean_teacher)^2 / (2 d^2)` on the steps of the student's own rollout: on-policy
/// distillation (Flow-OPD, DiffusionOPD), see distillation_loss().
///
/// Needs a stochastic solver, for its steps are recorded transitions. `Role::reference` in the
/// place of the teacher is an anchor.
/// @tparam Teacher whose transitions are learnt
template <Role Teacher = Role::teacher>
struct TransitionDistillation {
  using Velocities = Roles<Role::current, Teacher>;         ///< whose velocities it needs
  using Points = RecordedTransitions;                       ///< where it needs them
  static constexpr std::string_view name = "distillation";  ///< under which it is reported

  DistillationScale scale = DistillationScale::level;  ///< by what the distance is divided

  /// The loss of each sample, [B].
  /// @throws Error if it needs level terms and the record has no lengths of steps
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics&) const {
    return detail::divergence_from<Teacher>(batch, scale);
  }
};

/// Distillation as a policy gradient on the steps of the student's own rollout, see
/// distillation_policy_loss(). Each step has its own advantage, which rewards have no part in.
/// @tparam Teacher whose transitions are learnt
template <Role Teacher = Role::teacher>
struct DistillationPolicy {
  using Velocities = Roles<Role::current, Teacher>;                ///< whose velocities it needs
  using Points = RecordedTransitions;                              ///< where it needs them
  static constexpr std::string_view name = "distillation_policy";  ///< under which it is reported

  double clip_range = 1e-4;                            ///< c, above 0
  double advantage_clip = 5;                           ///< see DistillationPolicyOptions
  DistillationScale scale = DistillationScale::level;  ///< by what the distance is divided

  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics& statistics) const {
    const Tensor divergence = detail::divergence_from<Teacher>(batch, scale);
    const Tensor ratio = (batch.transition.log_density(batch.next, detail::mean_of_current(batch)) -
                          batch.old_log_prob)
                             .exp();
    statistics.add("teacher_divergence", divergence);
    detail::add_ratios_by_step(statistics, batch.transition, ratio, clip_range);
    return batch.weighted(
        distillation_policy_loss(divergence, ratio, {-1, advantage_clip, clip_range}).policy);
  }
};

}  // namespace contraflow
