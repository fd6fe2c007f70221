#pragma once

/// @file
/// Policy gradients beside the flow-matching loss of data (DDRL).

#include <functional>
#include <string_view>
#include <utility>

#include <contraflow/objective/grpo.hpp>
#include <contraflow/objective/regression.hpp>

namespace contraflow {

/// `-exp(-a)` of normalised advantages: DDRL's optional map of rewards (arXiv 2512.04332). All of
/// them become negative.
inline Tensor exponential_advantage(const Tensor& advantage) { return -(-advantage).exp(); }

/// `t^2 + (1 - t)^2`: DDRL's weight of the flow-matching error of data, its error in x0 times
/// `(s^2 + 1) / s^2` with `s = t / (1 - t)` (arXiv 2512.04332).
/// @par Shape
/// [B] to [B]
inline Tensor ddrl_time_weight(const Tensor& t) { return t.square() + (1 - t).square(); }

/// The flow-matching error of data beside the samples, weighted by time (DDRL, arXiv 2512.04332).
///
/// `cf::Grpo{} + 0.01 * cf::DataMatching(data)` is DDRL, with a solver whose log-density has the
/// scale -1, such as Cps: data keep the policy near them, in the place of a KL. The data are noised
/// as the samples in whose place they stand: the same noise at the same times.
/// @tparam Data called as `data(prompt, generator)`, see HasData
template <class Data>
class DataMatching {
 public:
  using Velocities = Roles<Role::current>;                   ///< whose velocities it needs
  using Points = ForwardProcess;                             ///< where it needs them
  static constexpr std::string_view name = "data_matching";  ///< under which it is reported

  /// @param data gives a clean sample of each prompt
  /// @param weight w(t): [B] to [B], at least 0
  explicit DataMatching(Data data, std::function<Tensor(const Tensor& t)> weight = ddrl_time_weight)
      : data_(std::move(data)), weight_(std::move(weight)) {}

  /// Clean samples of these prompts.
  Tensor data(const Tensor& prompt, Generator& generator) const { return data_(prompt, generator); }
  /// The loss of each sample, [B].
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, Statistics&) const {
    const Tensor error = matching_error(batch, velocity<Role::current>(batch));
    return weight_(batch.t).to(error.scalar_type()) * error;
  }

 private:
  Data data_;
  std::function<Tensor(const Tensor& t)> weight_;
};

/// Settings of a DDRL loss.
struct DdrlOptions {
  double clip_range = 1e-4;   ///< c, above 0
  double advantage_clip = 5;  ///< advantages are clipped to plus and minus this, above 0
  double data_weight = 0.01;  ///< of the flow-matching loss of data, at least 0
  double kl_weight = 0;       ///< of `mean (mean - mean_ref)^2`, at least 0
  bool exponential = false;   ///< see exponential_advantage()
};

/// Transitions of a DDRL loss.
/// @par Shape
/// all [B, ...]
struct DdrlTransitions {
  Tensor mean;      ///< of `current`
  Tensor mean_old;  ///< of who collected
  Tensor mean_ref;  ///< of the reference
  Tensor next;      ///< states behind the steps
};

/// What a DDRL loss consists of.
/// @par Shape
/// [B] but for the data's, which may be of another number of samples, and the total
struct DdrlTerms {
  Tensor log_ratio;  ///< `-(mean (next - mean)^2 - mean (next - mean_old)^2)`
  Tensor advantage;  ///< as it was used
  Tensor policy;     ///< the clipped loss
  Tensor kl;         ///< `mean (mean - mean_ref)^2`
  Tensor data;       ///< `w(t) mean (v_theta - v)^2`
  Tensor total;      ///< the weighted sum of their means, without dimensions
};

/// The flow-matching error of data, weighted by time: `w(t) mean (v - (eps - x0))^2`, [B].
/// @par Shape
/// v, x0 and eps [B, ...], t [B]
inline Tensor ddrl_data_loss(const Tensor& v, const Tensor& x0, const Tensor& eps,
                             const Tensor& t) {
  const Tensor error = mean_per_sample((wide(v) - (eps - x0)).square());
  return ddrl_time_weight(t).to(error.scalar_type()) * error;
}

/// DDRL: a clipped policy gradient, and the flow-matching loss of data that keeps it near them
/// (arXiv 2512.04332).
///
/// `mean max(-a ratio, -a clip(ratio)) + data_weight mean data + kl_weight mean kl`. Its ratio has
/// no variance in it: every step counts as if `std^2` were 1/2. It is the sum of Grpo on
/// transitions of log-density `-mean (x' - mean)^2` (as Cps has), a weighted flow-matching loss,
/// and a plain distance of means.
/// @param transitions of the samples
/// @param advantage normalised, [B]
/// @param data see ddrl_data_loss()
/// @param options settings
/// @throws Error if an option is out of range
inline DdrlTerms ddrl_loss(const DdrlTransitions& transitions, const Tensor& advantage,
                           const Tensor& data, const DdrlOptions& options) {
  expects(options.clip_range > 0, "clip_range", "above 0", options.clip_range);
  expects(options.advantage_clip > 0, "advantage_clip", "above 0", options.advantage_clip);
  const auto distance = [&](const Tensor& a, const Tensor& b) {
    return mean_per_sample((wide(a) - b).square());
  };
  const auto& [mean, mean_old, mean_ref, next] = transitions;
  DdrlTerms terms;
  terms.log_ratio = error_difference(mean_old, mean, next);
  terms.advantage = (options.exponential ? exponential_advantage(advantage) : advantage)
                        .clamp(-options.advantage_clip, options.advantage_clip);
  const Tensor ratio = terms.log_ratio.exp();
  terms.policy =
      clipped_policy_loss(ratio, terms.advantage.to(ratio.scalar_type()), options.clip_range);
  terms.kl = distance(mean, mean_ref);
  terms.data = data;
  terms.total =
      terms.policy.mean() + options.data_weight * data.mean() + options.kl_weight * terms.kl.mean();
  return terms;
}

}  // namespace contraflow
