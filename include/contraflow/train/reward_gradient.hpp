#pragma once

/// @file
/// Training on the gradient of a reward: ReFL, DRaFT, DRTune.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/core/stopwatch.hpp>
#include <contraflow/reward/differentiable.hpp>
#include <contraflow/solver/reward_path.hpp>
#include <contraflow/train/components.hpp>
#include <contraflow/train/ranks.hpp>
#include <contraflow/train/training.hpp>

namespace contraflow {

/// How a RewardGradientTrainer makes its gradient steps: a component of it.
struct RewardAscent {
  std::int64_t batch = 32;                      ///< samples of a gradient step, at least 1
  std::int64_t steps = 10;                      ///< gradient steps of an epoch, at least 1
  std::optional<double> clip = {};              ///< see reward_loss()
  double scale = 1;                             ///< see reward_loss(), above 0
  TimeGrid grid = sd3_grid(25);                 ///< of the chain from noise to data
  std::vector<std::int64_t> sample_shape = {};  ///< only needed if the model does not know it
};

/// What a RewardPath draws from.
struct PathDraws {
  /// The same for all samples, micro-batches and ranks of a gradient step: which step is taken.
  Generator shared;
  Generator own;  ///< a row each sample
};

/// `p(velocity, x, grid, draws)`: samples with gradients from noise x [B, ...].
///
/// Valid expression: as above, giving [m B, ...] with m at least 1, copies one behind the other.
/// Law: the samples of a row depend on it alone. It is called for each micro-batch, every time with
/// `draws.shared` from its start. Optional: HasPathSettings.
template <class T>
concept RewardPath = requires(const T& path, ProbeVelocity& velocity, const Tensor& x,
                              const TimeGrid& grid, PathDraws& draws) {
  { path(velocity, x, grid, draws) } -> std::convertible_to<Tensor>;
};

/// `p.settings()`: options of a RewardPath in which ranks must agree, names and texts.
template <class T>
concept HasPathSettings = requires(const T& path) {
  { path.settings() } -> std::same_as<StartOfRank>;
};

/// ReFL's way, see refl_x0(): the prediction of x0 at a random one of the last steps.
struct Refl {
  std::int64_t last_steps = 11;  ///< among so many of the grid's last, from 1 to all

  /// @throws Error if there are not as many steps
  template <class V>
  Tensor operator()(V& velocity, const Tensor& x, const TimeGrid& grid, PathDraws& draws) const {
    const auto steps = static_cast<std::int64_t>(grid.steps());
    expects(last_steps >= 1 && last_steps <= steps, "last_steps",
            "a number of steps from 1 to those of the grid", last_steps);
    const std::int64_t back = integers(last_steps, 1, draws.shared).item<std::int64_t>();
    return refl_x0(velocity, x, grid, static_cast<std::size_t>(steps - 1 - back));
  }
  /// In which ranks must agree.
  StartOfRank settings() const { return {{"last_steps", shown(last_steps)}}; }
};

/// DRaFT-K's way, see draft_k_x0(): the whole chain, of which the last steps carry gradients.
/// @tparam S a Solver
template <class S = Euler>
struct DraftK {
  std::size_t last_steps = 1;  ///< K, from 1 to all
  S solver = {};               ///< makes the steps

  /// @throws Error if there are not as many steps
  template <class V>
  Tensor operator()(V& velocity, const Tensor& x, const TimeGrid& grid, PathDraws& draws) const {
    return draft_k_x0(solver, velocity, x, grid, last_steps, draws.own);
  }
  /// In which ranks must agree.
  StartOfRank settings() const { return {{"last_steps", shown(last_steps)}}; }
};

/// DRaFT-LV's way, see draft_lv_x0(): the last step, and copies noised again.
struct DraftLv {
  std::int64_t copies = 2;  ///< at least 0

  /// @throws Error if the option is out of range
  template <class V>
  Tensor operator()(V& velocity, const Tensor& x, const TimeGrid& grid, PathDraws& draws) const {
    expects(copies >= 0, "copies", "at least 0", copies);
    std::vector<Tensor> noise;
    for (std::int64_t k = 0; k < copies; ++k) noise.push_back(normal_like(x, draws.own));
    auto shape = x.sizes().vec();
    shape.insert(shape.begin(), 0);
    return draft_lv_x0(velocity, x, grid,
                       noise.empty() ? at::empty(shape, x.options()) : at::stack(noise));
  }
  /// In which ranks must agree.
  StartOfRank settings() const { return {{"copies", shown(copies)}}; }
};

/// DRTune's way, see drtune_x0(): the prediction of x0 at a random stop among the last steps, with
/// the gradients of some equally spaced steps before it.
struct DrTune {
  std::int64_t train_steps = 3;  ///< at least 1
  double stop_share = 0.4;       ///< the stop is among this share of the grid's last, in (0, 1]

  /// @throws Error if an option is out of range
  template <class V>
  Tensor operator()(V& velocity, const Tensor& x, const TimeGrid& grid, PathDraws& draws) const {
    expects(train_steps >= 1, "train_steps", "at least 1", train_steps);
    expects(stop_share > 0 && stop_share <= 1, "stop_share", "a value in (0, 1]", stop_share);
    const auto steps = static_cast<std::int64_t>(grid.steps());
    // The small addition keeps a product such as 0.29 * 100 from losing its last step to rounding.
    const auto share = static_cast<std::int64_t>(double(steps) * stop_share + 1e-9);
    const std::int64_t late = std::max<std::int64_t>(share, 1);
    const std::int64_t stop = steps - 1 - integers(late, 1, draws.shared).item<std::int64_t>();
    std::vector<std::size_t> trained;
    for (std::int64_t k = 1; k <= train_steps; ++k) {
      const std::int64_t behind = (stop + 1) * k / train_steps;
      if (behind > 0) trained.push_back(static_cast<std::size_t>(behind - 1));
    }
    return drtune_x0(velocity, x, grid, trained, static_cast<std::size_t>(stop));
  }
  /// In which ranks must agree.
  StartOfRank settings() const {
    return {{"train_steps", shown(train_steps)}, {"stop_share", shown(stop_share)}};
  }
};

namespace detail {

using AscentKind = KindOf<RewardAscent>;

/// Whether a reward can be trained on by its gradient, and in a sentence why not.
template <class P, class R, class Path, class... Components>
struct AscentComposition {
  using Prompts = Pick<PromptKind, NoPrompts, Components...>;
  using Reference =
      decltype(reference_of(std::declval<const Prompts&>(), std::declval<const Tensor&>()));
  using C = ConditionOf<Prompts>;
  using Comm = Pick<CommunicatorKind, Alone, Components...>;
  static constexpr bool are_components = (is_any<Components, AscentKind, OptimizationKind, SeedKind,
                                                 PromptKind, EvaluationKind, CommunicatorKind> &&
                                          ...);

  static consteval bool explain() {
    static_assert(explain_differentiable_reward<R, Reference>());
    static_assert(RewardPath<Path>,
                  "contraflow: the way of a reward's gradient must be callable as `path(velocity, "
                  "x, grid, draws) const` and give samples, such as Refl, DraftK, DraftLv or "
                  "DrTune");
    static_assert(explain_trained<P, C>());
    static_assert(are_components,
                  "contraflow: a component of a RewardGradientTrainer must be RewardAscent, "
                  "Optimization, Seed, EvaluationOptions or an Evaluator, a PromptSource or a "
                  "Communicator");
    static_assert(explain_ranks<P, Comm>());
    return true;
  }
  static consteval bool fits() {
    return DifferentiableReward<R, Reference> && RewardPath<Path> && Policy<P, C> &&
           are_components && has_its_ranks<P, Comm>();
  }
};

}  // namespace detail

/// A RewardGradientTrainer whose composition makes sense, see there.
template <class P, class R, class Path, class... Components>
class AscendingTrainer
    : public Training<AscendingTrainer<P, R, Path, Components...>, P, Sum<>,
                      detail::Pick<detail::PromptKind, NoPrompts, Components...>,
                      detail::Pick<detail::CommunicatorKind, Alone, Components...>> {
  using Prompts = detail::Pick<detail::PromptKind, NoPrompts, Components...>;
  using Base = Training<AscendingTrainer, P, Sum<>, Prompts,
                        detail::Pick<detail::CommunicatorKind, Alone, Components...>>;
  using E = detail::Pick<detail::EvaluationKind, EvaluationOptions, Components...>;
  using Evaluates = std::conditional_t<detail::is_evaluator<E>, E, Evaluator<>>;

 public:
  /// See RewardGradientTrainer.
  AscendingTrainer(P policy, R reward, Path path, const Components&... components)
      : Base(std::move(policy), Sum<>{}, detail::pick<detail::PromptKind, NoPrompts>(components...),
             detail::pick<detail::SeedKind, Seed>(components...).value, Learning{},
             detail::pick<detail::OptimizationKind, Optimization>(components...), adamw(),
             detail::pick<detail::CommunicatorKind, Alone>(components...)),
        reward_(std::move(reward)),
        path_(std::move(path)),
        options_(with_shape(detail::pick<detail::AscentKind, RewardAscent>(components...))),
        micro_batch_(
            detail::pick<detail::OptimizationKind, Optimization>(components...).micro_batch),
        evaluator_(detail::pick<detail::EvaluationKind, EvaluationOptions>(components...)) {
    expects(options_.batch >= 1, "batch", "at least 1", options_.batch);
    expects(options_.steps >= 1, "steps", "at least 1", options_.steps);
    expects(options_.scale > 0, "scale", "above 0", options_.scale);
    add_settings();
  }

  using Base::run_epoch;
  /// `steps` gradient steps, each on samples of its own; then an evaluation where it is due.
  /// @param warn told of what a person should know
  template <class Warn>
  EpochReport run_epoch(Warn&& warn) {
    return this->undone_if_given_up(options_.steps, [&] {
      const Stopwatch watch;
      EpochReport report;
      LearnReport learnt;
      Statistics rewards;
      for (std::int64_t k = 0; k < options_.steps; ++k) gradient_step(k, learnt, rewards);
      this->policy_.after_epoch(this->gradient_steps());
      rewards.add_up(this->communicator_);
      rewards.for_each(
          [&](std::string_view name, double mean) { report.add(std::string(name), mean); });
      this->add_learnt(report, std::move(learnt));
      this->seconds_ += watch.seconds();
      report.add("seconds/epoch", watch.seconds());
      this->finish(report);
      detail::evaluate_if_due(
          evaluator_, this->epoch_, [&] { return evaluate(); }, report, warn);
      return report;
    });
  }

  /// Evaluates the averaged weights by the same reward.
  Evaluation evaluate() {
    return evaluator_.evaluate(this->policy_, as_rewards(reward_),
                               evaluator_.prompts_or(this->source_), options_.sample_shape,
                               this->communicator_, this->watch_);
  }

 private:
  RewardAscent with_shape(RewardAscent options) {
    if constexpr (requires { this->policy_.sample_shape(); }) {
      if (options.sample_shape.empty()) options.sample_shape = this->policy_.sample_shape();
    }
    if (!options.sample_shape.empty()) return options;
    throw Error("sample_shape",
                "the shape of a sample, from RewardAscent or from a sample_shape() of the model",
                "nothing");
  }

  /// Adds what must be the same on all ranks.
  void add_settings() {
    const auto add = [&](const char* name, std::string text) {
      this->settings_.emplace_back(name, std::move(text));
    };
    add("batch", shown(options_.batch));
    add("steps", shown(options_.steps));
    add("clip", options_.clip ? shown(*options_.clip) : "none");
    add("scale", shown(options_.scale));
    add("grid", bits_text(at::tensor(options_.grid.sigmas(), at::kDouble)));
    add("sample_shape", shown(at::IntArrayRef(options_.sample_shape)));
    add("every", shown(evaluator_.options().every));
    add("samples", shown(evaluator_.options().samples));
    if constexpr (HasPathSettings<Path>) {
      for (auto& [name, text] : path_.settings()) add(name.c_str(), text);
    }
  }

  void gradient_step(std::int64_t k, LearnReport& learnt, Statistics& rewards) {
    auto& step = this->learner_.step();
    step.begin();
    this->watch_.together(this->communicator_, [&] { backward(k, learnt, rewards); });
    if (!step.has_loss()) return;
    const StepOutcome outcome = step.finish();
    learnt.add(outcome);
    if (outcome.made) this->policy_.after_gradient_step(step.count());
  }

  /// The backward passes of this rank's share of the samples of step @p k of the epoch.
  void backward(std::int64_t k, LearnReport& learnt, Statistics& rewards) {
    const Generator stream = seeded(this->seed_)
                                 .stream(static_cast<std::uint64_t>(this->epoch_))
                                 .stream(static_cast<std::uint64_t>(k));
    Generator of_prompts = stream.stream(Purpose::prompts);
    const Share own =
        share_of(options_.batch, this->communicator_.rank(), this->communicator_.size());
    if (own.size() == 0) return;
    const Tensor prompt =
        integers(this->source_.size(), options_.batch, of_prompts).slice(0, own.first, own.last);
    prepare_prompts(this->source_, prompt);
    const Tensor id = at::arange(own.first, own.last, at::kLong);
    const std::int64_t most = micro_batch_ > 0 ? micro_batch_ : own.size();
    for (std::int64_t first = 0; first < own.size(); first += most) {
      const std::int64_t last = std::min(first + most, own.size());
      micro_batch(prompt.slice(0, first, last), id.slice(0, first, last), stream, learnt, rewards);
    }
  }

  /// The backward pass of some samples of a step.
  void micro_batch(const Tensor& prompt, const Tensor& id, const Generator& stream,
                   LearnReport& learnt, Statistics& rewards) {
    const Tensor x0 = samples(prompt, id, stream, learnt);
    const std::int64_t copies = x0.size(0) / id.numel();
    const Tensor scores =
        differentiable_scores(reward_, x0, reference_of(this->source_, prompt.repeat({copies})));
    rewards.add("reward/mean", scores);
    this->learner_.step().backward(reward_loss(scores, options_.clip, options_.scale).sum() /
                                   double(options_.batch * copies));
  }

  /// Samples with gradients.
  Tensor samples(const Tensor& prompt, const Tensor& id, const Generator& stream,
                 LearnReport& learnt) {
    Generator of_noise = stream.stream(Purpose::noise).rows(id);
    PathDraws draws{stream.stream(Purpose::times), stream.stream(Purpose::solver).rows(id)};
    const Tensor noise = normal(batch_shape(id.numel(), options_.sample_shape), of_noise,
                                sample_options(this->policy_));
    auto condition = this->source_.condition(prompt);
    auto velocity = [&](const Tensor& x, double sigma) {
      this->watch_.check();
      auto& evaluations = this->learner_.evaluations();
      evaluations.forward += x.size(0);
      if (at::GradMode::is_enabled()) evaluations.backward += x.size(0);
      Tensor v = this->policy_.velocity(Role::current, x, at::full({x.size(0)}, sigma, x.options()),
                                        condition);
      learnt.velocity = v.detach();
      return v;
    };
    return path_(velocity, noise, options_.grid, draws);
  }

  R reward_;
  Path path_;
  RewardAscent options_;
  std::int64_t micro_batch_;
  Evaluates evaluator_;
};

/// Trains a policy on the gradient of a reward, through the chain that made the samples: ReFL
/// (arXiv 2304.05977), DRaFT (arXiv 2309.17400), DRTune (arXiv 2405.00760).
///
/// For rewards that differentiate, an alternative to all that needs groups, advantages and an old
/// policy: `loss = scale mean max(clip - R, 0)`, or `-scale mean R`. It knows no trust region: a
/// reward can be exploited, see its clip. A reward that throws in a gradient step ends the run; in
/// an evaluation its score is absent, as a Trainer's.
///
/// `RewardGradientTrainer(policy, reward, path, components...)`: the reward is a
/// DifferentiableReward, the path one of Refl, DraftK, DraftLv, DrTune or yours; components are
/// RewardAscent, Optimization, Seed, EvaluationOptions or an Evaluator, a PromptSource and a
/// Communicator, in any order. Prompts of a step are drawn evenly.
template <class P, class R, class Path, class... Components>
class RewardGradientTrainer
    : public std::conditional_t<detail::AscentComposition<P, R, Path, Components...>::fits(),
                                AscendingTrainer<P, R, Path, Components...>,
                                detail::RefusedTrainer> {
  static_assert(detail::AscentComposition<P, R, Path, Components...>::explain());
  using Base =
      std::conditional_t<detail::AscentComposition<P, R, Path, Components...>::fits(),
                         AscendingTrainer<P, R, Path, Components...>, detail::RefusedTrainer>;

 public:
  /// @param policy is trained
  /// @param reward a DifferentiableReward
  /// @param path from noise to samples with gradients
  /// @param components any of them, in any order
  /// @throws Error if an option is out of range, or nobody knows the shape of a sample
  RewardGradientTrainer(P policy, R reward, Path path, const Components&... components)
      : Base(std::move(policy), std::move(reward), std::move(path), components...) {}
};

/// Deduces the types of all parts.
template <class P, class R, class Path, class... Components>
RewardGradientTrainer(P, R, Path, Components...)
    -> RewardGradientTrainer<P, R, Path, Components...>;

}  // namespace contraflow
