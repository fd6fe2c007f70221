#pragma once

/// @file
/// From scored samples to gradient steps.

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/network/recompute.hpp>
#include <contraflow/objective/algebra.hpp>
#include <contraflow/observe/report.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/train/epoch_watch.hpp>
#include <contraflow/train/evaluation_count.hpp>
#include <contraflow/train/gradient_step.hpp>
#include <contraflow/train/micro_batches.hpp>
#include <contraflow/train/rollout_correction.hpp>
#include <contraflow/train/scorer.hpp>

namespace contraflow {

/// How an epoch's samples become gradient steps: a component of a Trainer or an OfflineTrainer.
struct Learning {
  std::int64_t gradient_steps = 1;  ///< in which the samples are divided, at least 1
  std::int64_t inner_epochs = 1;    ///< passes over the samples, each with fresh noise and times
  /// Epochs in a row in which no sample has a score, behind which a run ends: a judge that is gone
  /// does not cost a night. 0: a reward is not required, the run goes on.
  std::int64_t most_unscored_epochs = 5;
};

/// What was learnt since the last report.
struct LearnReport {
  std::int64_t gradient_steps = 0;  ///< that were made
  std::int64_t skipped_steps = 0;   ///< loss or gradient was not finite
  double loss = 0;                  ///< sum over gradient steps
  double gradient_norm = 0;         ///< sum over gradient steps, before clipping
  Tensor velocity = {};             ///< v_theta of the last micro-batch
  Statistics statistics = {};       ///< of the terms

  /// Notes a step.
  void add(const StepOutcome& outcome) {
    if (!outcome.made) {
      ++skipped_steps;
      return;
    }
    ++gradient_steps;
    loss += outcome.loss;
    gradient_norm += outcome.gradient_norm;
  }

  /// Adds up over the ranks what each has seen of it: collective. Steps are the same on all.
  template <class Comm>
  void add_up(const Comm& communicator) {
    statistics.add_up(communicator);
    if constexpr (!is_alone<Comm>) {
      const Tensor square = at::zeros({2}, at::kDouble);
      if (velocity.defined()) {
        square[0] = wide(velocity).square().sum(at::kDouble).to(at::kCPU);
        square[1] = double(velocity.numel());
      }
      communicator.sum({square});
      velocity = square[1].item<double>() > 0 ? (square[0] / square[1]).sqrt() : Tensor();
    }
  }

  /// Adds the metrics of what was learnt, by the terms of an objective, to a report; what was not
  /// measured is not among them, but among those that other epochs have.
  template <class... Terms>
  void add_to(EpochReport& report, const Sum<Terms...>& /*terms*/) const {
    const auto mean = [&](double sum) {
      return gradient_steps > 0 ? std::optional(sum / double(gradient_steps)) : std::nullopt;
    };
    report.add("loss", mean(loss));
    statistics.for_each([&](std::string_view name, double value) {
      report.add("loss/" + std::string(name), value);
    });
    (add_if_missing(report, "loss/" + std::string(Terms::name)), ...);
    // A term that saw nothing may have more to tell of another epoch than its loss.
    const bool all = (report.find("loss/" + std::string(Terms::name)).has_value() && ...);
    if (!all && gradient_steps > 0) report.later.push_back("loss");
    report.add("gradient_norm", mean(gradient_norm));
    std::optional<double> size;
    if (velocity.defined()) {
      size = wide(velocity).norm().template item<double>() /
             std::sqrt(static_cast<double>(velocity.numel()));
    }
    report.add("velocity_norm", size);
    report.add("skipped_steps", double(skipped_steps));
  }

 private:
  static void add_if_missing(EpochReport& report, std::string name) {
    if (!report.find(name)) report.add(std::move(name), std::nullopt);
  }
};

/// Makes gradient steps out of samples: micro-batches, the velocities that are needed, the
/// objective, the step, the averages. The same for every trainer.
/// @tparam Source gives the condition of prompts
/// @tparam Comm of the ranks that share the samples of each step
template <class P, class O, class Source, class Comm = Alone>
class Learner {
 public:
  using Record = RecordOf<O>;            ///< what the rollout has recorded
  using C = ConditionOf<Source>;         ///< what the prompts give
  using Scored = ScoredRollout<Record>;  ///< what is learnt from

  /// @param policy is trained; its roles are made here
  /// @param objective a Sum
  /// @param source of conditions; policy and source must outlive the learner
  /// @param learning how samples become steps
  /// @param step makes them
  /// @param micro_batch most samples of one forward pass; 0: no limit
  /// @param communicator of the ranks that share the samples of each step
  /// @throws Error if an option is out of range
  Learner(P& policy, O objective, const Source& source, const Learning& learning,
          GradientStep<Comm> step, std::int64_t micro_batch, Comm communicator = {})
      : policy_(policy),
        objective_(std::move(objective)),
        source_(source),
        learning_(learning),
        step_(std::move(step)),
        micro_batch_(micro_batch),
        communicator_(std::move(communicator)) {
    expects(learning.gradient_steps >= 1, "gradient_steps", "at least 1", learning.gradient_steps);
    expects(learning.inner_epochs >= 1, "inner_epochs", "at least 1", learning.inner_epochs);
    expects(learning.most_unscored_epochs >= 0, "most_unscored_epochs", "at least 0",
            learning.most_unscored_epochs);
    expects(micro_batch >= 0, "micro_batch", "at least 0", micro_batch);
  }

  /// How samples are noised afresh, for the terms that want it.
  void set(ForwardProcess forward) { forward_ = std::move(forward); }
  /// Which transitions are trained on, for the terms that want it.
  void set(const RecordedTransitions& transitions) {
    expects(transitions.per_sample >= 0, "per_sample", "at least 0", transitions.per_sample);
    transitions_ = transitions;
  }

  /// Learns from samples: collective.
  /// @param samples with scores, where the objective asks for any
  /// @param grid of the rollout, which training times may follow
  /// @param stream of the epoch: noise, times and order are drawn from streams of it
  /// @param report is added to
  /// @throws EpochGivenUp in the middle, behind the gradient steps made so far
  void learn(const Scored& samples, const TimeGrid& grid, const Generator& stream,
             LearnReport& report) {
    if constexpr (O::uses_transitions) {
      if (correction_) {
        Scored corrected = samples;
        detail::FreshDensities fresh;
        watch_.together(communicator_, [&] { fresh = fresh_densities_of(corrected.rollout); });
        correct(corrected.rollout.record, std::move(fresh), *correction_, communicator_,
                report.statistics);
        return learn_from(corrected, grid, stream, report);
      }
    }
    learn_from(samples, grid, stream, report);
  }

  /// What the terms on the gradient of the reward ask: `reward(x0, prompt)` in autograd, [B].
  void set_reward(std::function<Tensor(const Tensor&, const Tensor&)> reward) {
    reward_ = std::move(reward);
  }
  /// The samples are of the policy's own roles, which may follow each gradient step.
  void set_online() { is_online_ = true; }
  /// How samples of an older policy are corrected for, for the terms on transitions.
  void set(RolloutCorrection correction) { correction_ = std::move(correction); }
  /// Lets epochs be given up in the middle of learn(), which then throws EpochGivenUp.
  void set(EpochWatch watch) { watch_ = std::move(watch); }
  /// Gradient steps of one learn().
  std::int64_t steps() const { return learning_.gradient_steps * learning_.inner_epochs; }
  /// Velocities computed so far.
  EvaluationCount& evaluations() { return evaluations_; }
  /// What makes the steps.
  GradientStep<Comm>& step() { return step_; }
  /// The objective.
  const O& objective() const { return objective_; }

 private:
  void learn_from(const Scored& samples, const TimeGrid& grid, const Generator& stream,
                  LearnReport& report) {
    Epoch epoch{samples, grid, objective_.shares(samples.scores, samples.rollout.x0.device()), {}};
    if constexpr (O::uses_transitions) {
      epoch.tables = TransitionTables::of(samples.rollout.record, transitions_.report_steps);
    }
    for (std::int64_t inner = 0; inner < learning_.inner_epochs; ++inner) {
      const Generator own = stream.stream(static_cast<std::uint64_t>(inner));
      const std::vector<Tensor> units = shuffled(epoch, own);
      draw_data(epoch, own);
      for (std::int64_t k = 0; k < learning_.gradient_steps; ++k) {
        gradient_step(epoch, units, k, own, report);
      }
    }
  }

  /// What is the same for all gradient steps of an epoch.
  struct Epoch {
    const Scored& samples;
    const TimeGrid& grid;
    typename O::Shares shares;
    TransitionTables tables;
    std::map<std::size_t, Rollout<Record>> data = {};  ///< of the terms that look at any
  };

  /// The units of each selection of terms, in the order in which they are learnt from.
  std::vector<Tensor> shuffled(const Epoch& epoch, const Generator& stream) const {
    std::vector<Tensor> all;
    O::for_each_selection([&](auto selection) {
      const Tensor units = units_of(selection, epoch);
      // One step takes all of them, in whatever order.
      if (units.size(0) == 0 || learning_.gradient_steps == 1) return all.push_back(units);
      const Tensor first = units.select(1, 0);
      Generator order =
          stream.stream(Purpose::order).rows(epoch.samples.ids().index_select(0, first));
      all.push_back(units.index_select(0, permutation(units.size(0), order)));
    });
    return all;
  }
  template <class Selection>
  Tensor units_of(Selection selection, const Epoch& epoch) const {
    return objective_.units(selection, epoch.shares, epoch.samples.size());
  }
  template <std::size_t I>
  Tensor units_of(OwnTerm<I> selection, const Epoch& epoch) const {
    return objective_.own_units(selection, epoch.samples.scores);
  }

  /// Draws the data of terms that look at any, for a pass over the samples.
  void draw_data(Epoch& epoch, const Generator& stream) const {
    O::for_each_selection([&](auto selection) { draw_data_of(selection, epoch, stream); });
  }
  template <class Selection>
  void draw_data_of(Selection, Epoch&, const Generator&) const {}
  template <std::size_t I>
  void draw_data_of(OwnTerm<I>, Epoch& epoch, const Generator& stream) const {
    const auto& term = std::get<I>(objective_.terms);
    if constexpr (HasData<std::remove_cvref_t<decltype(term)>>) {
      const Rollout<Record>& rollout = epoch.samples.rollout;
      if (rollout.size() == 0) return;
      Generator generator = stream.stream(Purpose::data, I).rows(rollout.id);
      const Tensor x0 = term.data(rollout.prompt, generator);
      expects_samples(x0, "data of a term");
      Rollout<Record>& own = epoch.data[I] = rollout;
      own.x0 = on_device(x0, rollout.x0.device(), rollout.x0.scalar_type());
      expects_like(own.x0, rollout.x0, "data of a term");
    }
  }
  /// What the terms of a selection look at: the samples, or data in their place.
  template <class Selection>
  static const Rollout<Record>& looked_at(Selection, const Epoch& epoch) {
    return epoch.samples.rollout;
  }
  template <std::size_t I>
  static const Rollout<Record>& looked_at(OwnTerm<I>, const Epoch& epoch) {
    const auto found = epoch.data.find(I);
    return found == epoch.data.end() ? epoch.samples.rollout : found->second;
  }

  void gradient_step(Epoch& epoch, const std::vector<Tensor>& units, std::int64_t k,
                     const Generator& stream, LearnReport& report) {
    step_.begin();
    if constexpr (HasShards<P>) ask_other_roles(epoch, units, k, stream);
    watch_.together(communicator_, [&] {
      for_each_part(units, k, [&](auto selection, const StepUnits& own) {
        backward(selection, epoch, own, stream, report);
      });
    });
    if (!step_.has_loss()) return;
    const StepOutcome outcome = step_.finish();
    report.add(outcome);
    if (outcome.made) follow();
  }

  /// Lets the roles follow a gradient step.
  void follow() {
    policy_.after_gradient_step(step_.count());
    if constexpr (HasStepwiseOld<P>) {
      if (is_online_ && policy_.old_follows_steps()) policy_.after_step_of_collector(step_.count());
    }
  }

  /// Calls @p body(selection, units) for what of each selection's units is of step @p k.
  template <class Body>
  void for_each_part(const std::vector<Tensor>& units, std::int64_t k, Body&& body) const {
    std::size_t which = 0;
    O::for_each_selection([&](auto selection) {
      const Tensor& all = units[which++];
      const std::int64_t first = all.size(0) * k / learning_.gradient_steps;
      const std::int64_t last = all.size(0) * (k + 1) / learning_.gradient_steps;
      if (first < last) body(selection, StepUnits{all.slice(0, first, last), {}});
    });
  }

  /// The velocities of all roles but the current one for a step, where the weights of roles are
  /// divided between ranks: role by role, since one is whole at a time, and before the first
  /// backward pass, since gradients take the memory of that role.
  void ask_other_roles(const Epoch& epoch, const std::vector<Tensor>& units, std::int64_t k,
                       const Generator& stream) {
    known_.clear();
    O::AllVelocities::for_each([&](auto role) {
      constexpr Role which = decltype(role)::value;
      if constexpr (which != Role::current) {
        [[maybe_unused]] const auto whole = gathered(policy_, which);
        watch_.together(communicator_, [&] {
          for_each_part(units, k, [&](auto selection, const StepUnits& own) {
            ask<which>(selection, epoch, own, stream);
          });
        });
      }
    });
  }
  template <Role R, class Selection>
  void ask(Selection selection, const Epoch& epoch, const StepUnits& units,
           const Generator& stream) {
    if constexpr (O::template VelocitiesOf<Selection>::template contains<R>) {
      for_each_micro_batch(
          selection, epoch, units, stream,
          [&](const auto& points, std::int64_t first, std::int64_t last) {
            watch_.check();
            const auto batch = batch_of<Selection>(points, first, last, epoch);
            const auto [x, t] = place_of(points, first, last, batch);
            known_[std::string(R.name())].push_back(policy_.velocity(R, x, t, batch.condition));
          });
    }
  }

  /// The units of a step that this rank learns from, as positions in its rollout: those whose
  /// samples it has, or, where all have all of them, its share.
  StepUnits own_units(const StepUnits& units, const Scored& samples) const {
    if constexpr (is_alone<Comm>) {
      return units;
    } else {
      const Tensor place = units.members - samples.first;
      const Tensor which = samples.is_everywhere ? shared_out(units.count()) : held(place, samples);
      return {place.index_select(0, which),
              StepUnits::All{samples.ids(), groups_of(samples), units.members, which}};
    }
  }
  Tensor shared_out(std::int64_t count) const {
    const Share own = share_of(count, communicator_.rank(), communicator_.size());
    return at::arange(own.first, own.last, at::kLong);
  }
  /// The units whose samples this rank has.
  static Tensor held(const Tensor& place, const Scored& samples) {
    const Tensor is_here = place.ge(0).logical_and(place.lt(samples.rollout.size()));
    const Tensor whole = is_here.all(1);
    if (!whole.equal(is_here.any(1))) {
      throw Error("collector", "the samples of a group made by one rank", "a pair of two ranks");
    }
    return whole.nonzero().flatten();
  }
  static const Tensor& groups_of(const Scored& samples) {
    return samples.scores.group.defined() ? samples.scores.group : samples.rollout.group;
  }

  /// The backward passes of the terms of a selection.
  template <class Selection>
  void backward(Selection selection, Epoch& epoch, const StepUnits& all, const Generator& stream,
                LearnReport& report) {
    for_each_micro_batch(selection, epoch, all, stream,
                         [&](const auto& points, std::int64_t first, std::int64_t last) {
                           if (first == 0) {
                             objective_.template set_scales<Selection>(
                                 epoch.shares, all.members.flatten(), points.per_sample());
                           }
                           micro_batch<Selection>(points, first, last, epoch, report);
                         });
  }

  /// Calls @p body(points, first, last) for each micro-batch of a step's units that are this
  /// rank's.
  template <class Selection, class Body>
  void for_each_micro_batch(Selection selection, const Epoch& epoch, const StepUnits& all,
                            const Generator& stream, Body&& body) const {
    const StepUnits units = own_units(all, epoch.samples);
    if (units.count() == 0) return;
    const auto points = points_of(selection, looked_at(selection, epoch), epoch, units, stream);
    const std::int64_t count = points.count(), size = units.size();
    const std::int64_t most =
        micro_batch_ > 0 ? std::max<std::int64_t>(micro_batch_ / size, 1) * size : count;
    for (std::int64_t first = 0; first < count; first += most) {
      body(points, first, std::min(count, first + most));
    }
  }

  template <class Selection>
  auto points_of(Selection, const Rollout<Record>& rollout, const Epoch& epoch,
                 const StepUnits& units, const Generator& stream) const {
    if constexpr (std::same_as<typename Selection::At, ForwardProcess>) {
      return ForwardPoints<Record>(forward_, rollout, units, epoch.grid, stream);
    } else {
      return TransitionPoints<Record>(transitions_, rollout, epoch.tables, units, stream);
    }
  }
  template <std::size_t I>
  auto points_of(PathTerm<I>, const Rollout<Record>& rollout, const Epoch&, const StepUnits& units,
                 const Generator& stream) const {
    return PathPoints<Record>(rollout, I, units, stream);
  }

  /// A micro-batch, whose velocities are still undefined.
  template <class Selection, class Points>
  auto batch_of(const Points& points, std::int64_t first, std::int64_t last,
                const Epoch& epoch) const {
    using RoleSet = typename O::template VelocitiesOf<Selection>;
    const Tensor members = points.members(first, last);
    return points.template batch<RoleSet>(
        first, last, source_.condition(epoch.samples.rollout.prompt.index_select(0, members)));
  }
  /// Where velocities are asked for, and at which times.
  template <class Points, class Batch>
  static std::pair<Tensor, Tensor> place_of(const Points& points, std::int64_t first,
                                            std::int64_t last, const Batch& batch) {
    if constexpr (requires { batch.x_t; }) {
      return {batch.x_t, batch.t};
    } else {
      return {batch.x, points.times(first, last)};
    }
  }

  template <class Selection, class Points>
  void micro_batch(const Points& points, std::int64_t first, std::int64_t last, const Epoch& epoch,
                   LearnReport& report) {
    const Tensor members = points.members(first, last);
    auto batch = batch_of<Selection>(points, first, last, epoch);
    if constexpr (std::same_as<typename Selection::At, RecordedPath>) {
      batch.functions = path_functions(report);
    } else {
      const auto [x, t] = place_of(points, first, last, batch);
      evaluate(batch.velocities, x, t, batch.condition, report);
    }
    const Tensor place = is_alone<Comm> ? members : members + epoch.samples.first;
    const Tensor loss =
        objective_.template loss<Selection>(batch, place, epoch.shares, report.statistics);
    if (loss.defined()) step_.backward(loss);
  }

  template <class RoleSet>
  void evaluate(Velocities<RoleSet>& velocities, const Tensor& x, const Tensor& t,
                const C& condition, LearnReport& report) {
    RoleSet::for_each([&](auto role) {
      watch_.check();
      constexpr Role which = decltype(role)::value;
      velocities.template get<which>() = velocity<which>(x, t, condition);
      evaluations_.forward += x.size(0);
      if (which == Role::current) evaluations_.backward += x.size(0);
    });
    if constexpr (RoleSet::template contains<Role::current>) {
      report.velocity = velocities.template get<Role::current>().detach();
    }
  }

  /// The densities of a rollout's transitions under the weights of now.
  detail::FreshDensities fresh_densities_of(const Rollout<Record>& rollout) {
    const std::int64_t most = micro_batch_ > 0 ? micro_batch_ : rollout.size();
    return detail::fresh_densities(
        rollout.record, most, [&](const Tensor& x, double sigma, std::int64_t first) {
          watch_.check();
          evaluations_.forward += x.size(0);
          return policy_.velocity(Role::current, x, at::full({x.size(0)}, sigma, x.options()),
                                  source_.condition(rollout.prompt.narrow(0, first, x.size(0))));
        });
  }

  /// What the terms on paths call.
  PathFunctions<C> path_functions(LearnReport& report) {
    return {[this, &report](const Tensor& x, double sigma, const C& condition, bool recomputes) {
              watch_.check();
              const bool learns = at::GradMode::is_enabled();
              evaluations_.forward += learns && recomputes ? 2 * x.size(0) : x.size(0);
              if (learns) evaluations_.backward += x.size(0);
              const Tensor v = path_velocity(x, sigma, condition, recomputes);
              report.velocity = v.detach();
              return v;
            },
            reward_};
  }
  Tensor path_velocity(const Tensor& x, double sigma, const C& condition, bool recomputes) {
    const auto function = [this, sigma, condition](const std::vector<Tensor>& inputs) {
      const Tensor& state = inputs[0];
      const Tensor t = at::full({state.size(0)}, sigma, state.options().requires_grad(false));
      return std::vector<Tensor>{policy_.velocity(Role::current, state, t, condition)};
    };
    return recomputes ? recomputed(policy_.parameters(), function, {x})[0] : function({x})[0];
  }

  /// The velocity of a role for the next micro-batch.
  template <Role R>
  Tensor velocity(const Tensor& x, const Tensor& t, const C& condition) {
    if constexpr (HasShards<P> && R != Role::current) {
      auto& known = known_.at(std::string(R.name()));
      const Tensor first = known.front();
      known.pop_front();
      return first;
    } else {
      return policy_.velocity(R, x, t, condition);
    }
  }

  P& policy_;
  O objective_;
  const Source& source_;
  Learning learning_;
  GradientStep<Comm> step_;
  std::int64_t micro_batch_;
  [[no_unique_address]] Comm communicator_;
  ForwardProcess forward_;
  RecordedTransitions transitions_;
  std::optional<RolloutCorrection> correction_;
  bool is_online_ = false;
  EpochWatch watch_;
  EvaluationCount evaluations_;
  std::function<Tensor(const Tensor&, const Tensor&)> reward_;
  /// Velocities by role, of the micro-batches that are still to come in a step.
  std::map<std::string, std::deque<Tensor>> known_;
};

}  // namespace contraflow
