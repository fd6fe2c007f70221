#pragma once

/// @file
/// What all trainers are: a policy that is learnt by steps, counted, saved and resumed.

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <typeinfo>
#include <utility>

#include <contraflow/core/memory.hpp>
#include <contraflow/train/learner.hpp>
#include <contraflow/train/loop.hpp>
#include <contraflow/train/optimizer_state.hpp>
#include <contraflow/train/ranks.hpp>

namespace contraflow {

namespace detail {

/// A number that no other run has, on any machine. It names a run; nothing is computed from it.
inline std::int64_t new_run_number() {
  std::random_device device;
  const std::uint64_t high = device(), low = device();
  return static_cast<std::int64_t>(((high << 32U | low) >> 1U) | 1U);
}

/// Another value of a number, while this lives.
class ForATime {
 public:
  ForATime(std::int64_t& number, std::int64_t value)
      : number_(number), before_(std::exchange(number, value)) {}
  ForATime(const ForATime&) = delete;
  ~ForATime() { number_ = before_; }

 private:
  std::int64_t &number_, before_;
};

/// Throws Error unless a number can be the count of anything in a run, and counted further.
inline void expects_count(std::int64_t count, const char* name) {
  constexpr std::int64_t most = std::int64_t{1} << 62;
  expects(count >= 0 && count <= most, name, "a count of a run", count);
}

/// The rank of each of a policy's parameters; empty where all ranks have all.
/// @throws Error if the ranks of the policy are others than these
template <class P, class Comm>
std::vector<int> owners_of(P& policy, const Comm& ranks) {
  if constexpr (HasShards<P> && !is_alone<Comm>) {
    const auto& own = policy.communicator();
    const auto text = [](const auto& c) { return shown(c.rank()) + " of " + shown(c.size()); };
    if (text(own) != text(ranks)) {
      throw Error("communicator", "the rank of the policy, " + text(own), text(ranks));
    }
    return policy.owners();
  } else {
    return {};
  }
}

}  // namespace detail

/// The state of a trainer between two epochs, without the optimiser's own; of a policy that is
/// divided between ranks what this rank has.
struct TrainerState {
  std::map<std::string, Tensor> tensors;       ///< of the policy, and the scale of the loss
  std::map<std::string, std::int64_t> counts;  ///< epochs, steps, evaluations, time, seed, run
};

/// What Trainer, OfflineTrainer and Pretrainer share: policy, learner, counts, the run loop, state.
/// @tparam Self the trainer, which has `EpochReport run_epoch(warn)`
/// @tparam Comm of the ranks that train together
template <class Self, class P, class O, class Source, class Comm = Alone>
class Training {
 public:
  using Record = RecordOf<O>;     ///< what the rollout records
  using C = ConditionOf<Source>;  ///< what the prompts give to models

  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  /// Trains until @p epochs epochs are finished in total, or until an observer asks for the end:
  /// collective, with the same observers on all ranks.
  /// @param epochs total, those of a resumed run included
  /// @param observers in an epoch all of them measure, then all are told, in this order
  /// @return how it ended
  /// @throws Error from an observer, or from an option of a part that is out of range
  template <class... Os>
  RunReport run(std::int64_t epochs, Os&&... observers) {
    expects_same_start(communicator_, start(epochs));
    agree_on_run_number();
    const detail::ForATime until(until_, epochs);
    return run_loop(self(), epochs, observers...);
  }
  /// Lets the epochs to come be given up half-way: run_epoch() then throws EpochGivenUp, and all is
  /// as it was before that epoch. The run loop does this for observers that interrupt.
  void watch(const EpochWatch& watch) {
    watch_ = watch;
    learner_.set(watch);
  }
  /// Why the run has no sense any more; empty where it has.
  std::string reason_to_end() const { return ""; }
  /// One epoch by itself; warnings are dropped.
  EpochReport run_epoch() {
    return self().run_epoch([](const Warning&) {});
  }

  /// The policy that is trained.
  P& policy() { return policy_; }
  /// The objective, as a Sum.
  const O& objective() const { return learner_.objective(); }
  /// The source of conditions.
  const Source& prompts() const { return source_; }
  /// The optimiser, as its factory made it.
  torch::optim::Optimizer& optimizer() { return learner_.step().optimizer(); }
  /// What the loss is multiplied by.
  LossScale& loss_scale() { return learner_.step().loss_scale(); }
  /// Epochs finished, those of a resumed run included.
  std::int64_t epoch() const { return epoch_; }
  /// Gradient steps made, those of a resumed run included.
  std::int64_t gradient_steps() { return learner_.step().count(); }
  /// Velocities computed, those of a resumed run included.
  const EvaluationCount& evaluations() { return learner_.evaluations(); }
  /// Seconds of training so far, evaluations not counted.
  double seconds() const { return seconds_; }
  /// The seed of everything that is drawn.
  std::uint64_t seed() const { return seed_; }
  /// Which run this is: drawn when the trainer is made, taken over by load(), and 0 where the state
  /// that was loaded has none. Checkpoints are known by it as this run's.
  std::int64_t run_number() const { return run_number_; }
  /// Of the ranks that train together.
  const Comm& communicator() const { return communicator_; }

  /// What the optimiser keeps; where it is divided between ranks, this one's part, with the numbers
  /// that its parameters have among all.
  OptimizerState optimizer_state() {
    auto& step = learner_.step();
    return HasShards<P> ? state_of_part(step.optimizer(), step.own()) : state_of(step.optimizer());
  }
  /// Takes over what an optimiser of all parameters kept, or this rank's part of it.
  /// @throws Error if it does not fit
  void load_optimizer(const OptimizerState& state) {
    auto& step = learner_.step();
    HasShards<P> ? load_part(step.optimizer(), state, step.own(), step.parameters().size())
                 : load_state(step.optimizer(), state);
  }

  /// The tensors of state() of all ranks, where the policy is divided between them.
  std::vector<StatePart> state_parts() requires HasShards<P> {
    std::vector<StatePart> parts = policy_.state_parts();
    const Tensor scale = loss_scale().state();
    parts.push_back({"loss_scale", 0, scale, scale});
    return parts;
  }
  /// What the optimisers of all ranks keep, where they are divided: collective.
  OptimizerParts optimizer_parts() requires HasShards<P> {
    return parts_of(communicator_, optimizer_state(), learner_.step().parameters());
  }

  /// What a checkpoint needs beside the optimiser's state: what was drawn follows from the seed and
  /// the counts.
  TrainerState state() {
    TrainerState state{policy_.state(), {}};
    state.tensors.emplace("loss_scale", loss_scale().state());
    state.counts = {{"epoch", epoch_},
                    {"gradient_steps", gradient_steps()},
                    {"forward_evaluations", evaluations().forward},
                    {"backward_evaluations", evaluations().backward},
                    {"nanoseconds", std::llround(seconds_ * 1e9)},
                    {"run", run_number_},
                    {"seed", static_cast<std::int64_t>(seed_)}};
    return state;
  }
  /// Takes over what state() gave: all of it, or nothing where an error is thrown.
  /// @throws Error naming what is missing or of another composition
  void load(const TrainerState& state) {
    const auto number = [&](const char* name) {
      const auto found = state.counts.find(name);
      if (found == state.counts.end()) throw Error("state", "a count named " + shown(name), "none");
      return found->second;
    };
    const auto count = [&](const char* name) {
      detail::expects_count(number(name), name);
      return number(name);
    };
    const EvaluationCount evaluations{count("forward_evaluations"), count("backward_evaluations")};
    const std::int64_t epoch = count("epoch"), steps = count("gradient_steps");
    const auto seed = static_cast<std::uint64_t>(number("seed"));
    const double seconds = static_cast<double>(count("nanoseconds")) * 1e-9;
    const auto run = state.counts.find("run");
    const auto scale = state.tensors.find("loss_scale");
    if (scale == state.tensors.end()) throw Error("state", "a tensor named loss_scale", "none");
    LossScale loaded = loss_scale();
    loaded.load(scale->second);
    policy_.load(state.tensors);
    loss_scale() = loaded;
    learner_.step().resume(steps);
    learner_.evaluations() = counted_ = evaluations;
    epoch_ = epoch;
    seconds_ = seconds;
    seed_ = seed;
    run_number_ = run == state.counts.end() ? 0 : run->second;
  }

 protected:
  /// For trainers: with the optimiser's factory @p unset where the settings have none.
  Training(P policy, O objective, Source source, std::uint64_t seed, const Learning& learning,
           const Optimization& optimization, const OptimizerFactory& unset, Comm communicator = {})
      : policy_(prepared(std::move(policy))),
        source_(std::move(source)),
        seed_(seed),
        communicator_(communicator),
        learner_(policy_, std::move(objective), source_, learning,
                 GradientStep<Comm>(policy_.parameters(), optimization, unset, communicator,
                                    detail::owners_of(policy_, communicator)),
                 optimization.micro_batch, communicator),
        settings_{{"gradient_steps", shown(learning.gradient_steps)},
                  {"inner_epochs", shown(learning.inner_epochs)},
                  {"max_gradient_norm", shown(optimization.max_gradient_norm)},
                  {"micro_batch", shown(optimization.micro_batch)}} {}
  ~Training() = default;

  /// Makes an epoch of @p steps gradient steps, and undoes what there was of it where it is given
  /// up.
  template <class Epoch>
  EpochReport undone_if_given_up(std::int64_t steps, Epoch&& epoch) {
    if constexpr (HasBytesSent<Comm>) sent_ = communicator_.bytes_sent();
    if (!watch_.is_on()) return epoch();
    const EvaluationCount evaluations = learner_.evaluations();
    // Nobody asks behind the last step: where it is the only one, nothing has changed before.
    const std::optional<Before> before = steps > 1 ? std::optional(copy()) : std::nullopt;
    try {
      return epoch();
    } catch (const EpochGivenUp&) {
      if (before) {
        load(before->trainer);
        load_state(optimizer(), before->optimizer);
      }
      learner_.evaluations() = evaluations;
      throw;
    }
  }

  /// Adds what was learnt in an epoch, and how far that took the policy from who collected:
  /// collective.
  void add_learnt(EpochReport& report, LearnReport learnt) {
    learnt.add_up(communicator_);
    learnt.add_to(report, objective());
    if constexpr (requires { policy_.old_deviation(); }) {
      if (const auto deviation = std::optional<double>(policy_.old_deviation())) {
        report.add("old_deviation", *deviation);
      }
    }
  }

  /// Counts the epoch, and adds the numbers that all trainers report: collective.
  void finish(EpochReport& report) {
    add_up_evaluations();
    add_exchange(report);
    report.epoch = ++epoch_;
    report.seconds = seconds_;
    report.gradient_steps = gradient_steps();
    report.forward_evaluations = evaluations().forward;
    report.backward_evaluations = evaluations().backward;
  }

  P policy_;                                 ///< is trained
  Source source_;                            ///< of conditions
  std::uint64_t seed_;                       ///< of everything that is drawn
  [[no_unique_address]] Comm communicator_;  ///< of the ranks
  Learner<P, O, Source, Comm> learner_;      ///< makes the gradient steps
  std::int64_t epoch_ = 0;                   ///< epochs finished
  std::int64_t until_ = endless;             ///< epochs of the run under way, in total
  double seconds_ = 0;                       ///< of training so far
  StartOfRank settings_;                     ///< in which the ranks must agree
  EpochWatch watch_;                         ///< asked whether an epoch is to be given up

 private:
  static constexpr std::int64_t endless = std::numeric_limits<std::int64_t>::max();

  /// All that gradient steps change.
  struct Before {
    TrainerState trainer;
    OptimizerState optimizer;
  };
  /// In the host's memory, where a device's is short.
  Before copy() {
    Before before{state(), state_of(optimizer())};
    const auto on_host = [](auto& tensors) {
      for (auto& entry : tensors) entry.second = entry.second.detach().to(at::kCPU).clone();
    };
    on_host(before.trainer.tensors);
    on_host(before.optimizer.tensors);
    return before;
  }

  /// What must be the same on all ranks for a run to be one.
  StartOfRank start(std::int64_t epochs) {
    StartOfRank all = settings_;
    if constexpr (!is_alone<Comm>) {
      all.emplace_back("composition", typeid(Self).name());
      all.emplace_back("epochs", shown(epochs));
      for (const double weight : objective().weights) {
        all.emplace_back("weight of a term", shown(weight));
      }
      objective().for_each_setting(
          [&](const std::string& name, const std::string& text) { all.emplace_back(name, text); });
      for (const auto& group : optimizer().param_groups()) {
        all.emplace_back("learning_rate", shown(group.options().get_lr()));
      }
      all.emplace_back("seed", shown(seed_));
      all.emplace_back("epoch", shown(epoch_));
      add_weights(all);
    }
    return all;
  }

  /// Weights that all ranks have.
  void add_weights(StartOfRank& all) {
    const auto add = [&](const std::string& name, const Tensor& tensor) {
      all.emplace_back("weights of " + name, bits_text(tensor));
    };
    if constexpr (HasShards<P>) {
      for (const StatePart& part : policy_.state_parts()) {
        if (part.name.starts_with(Role::current.name_with("."))) add(part.name, part.values);
      }
    } else {
      for (const auto& [name, tensor] : policy_.state()) add(name, tensor);
    }
  }

  /// Evaluations of all ranks since this was last called, in the place of this rank's own.
  void add_up_evaluations() {
    if constexpr (!is_alone<Comm>) {
      EvaluationCount& own = learner_.evaluations();
      const Tensor since =
          at::tensor({own.forward - counted_.forward, own.backward - counted_.backward});
      communicator_.sum({since});
      own.forward = counted_.forward + since[0].template item<std::int64_t>();
      own.backward = counted_.backward + since[1].template item<std::int64_t>();
      counted_ = own;
    }
  }

  /// Adds what several ranks took in the epoch: bytes that they gave to each other, all together,
  /// and the host's memory of the largest: collective.
  void add_exchange(EpochReport& report) {
    if constexpr (HasBytesSent<Comm>) {
      if (communicator_.size() == 1) return;
      const std::int64_t sent = communicator_.bytes_sent();
      const Tensor all = communicator_.gather(
          at::tensor({sent - sent_, std::int64_t(peak_memory())}).unsqueeze(0));
      report.add("ranks/bytes", double(all.select(1, 0).sum().template item<std::int64_t>()));
      report.add("ranks/peak_memory", double(all.select(1, 1).max().template item<std::int64_t>()));
    }
  }

  /// That of the first rank, on all: collective.
  void agree_on_run_number() {
    if constexpr (!is_alone<Comm>) {
      const Tensor number = at::full({1}, run_number_, at::kLong);
      communicator_.broadcast({number});
      run_number_ = number[0].template item<std::int64_t>();
    }
  }

  EvaluationCount counted_;  ///< of all ranks, up to the last epoch
  std::int64_t sent_ = 0;    ///< by this rank, up to the epoch under way
  std::int64_t run_number_ = detail::new_run_number();

  static P prepared(P policy) {
    policy.keep(typename O::KeptRoles{});
    return policy;
  }
  Self& self() { return static_cast<Self&>(*this); }
};

}  // namespace contraflow
