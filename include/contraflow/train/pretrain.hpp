#pragma once

/// @file
/// Plain flow matching.

#include <algorithm>
#include <concepts>
#include <tuple>
#include <utility>

#include <contraflow/core/stopwatch.hpp>
#include <contraflow/objective/regression.hpp>
#include <contraflow/policy/single_model.hpp>
#include <contraflow/train/components.hpp>
#include <contraflow/train/training.hpp>

namespace contraflow {

/// Data with a condition a sample.
template <class C>
struct ConditionedData {
  Tensor x0;    ///< [B, ...]
  C condition;  ///< one row a sample
};

/// How much data plain flow matching sees: a component of a Pretrainer.
struct Pretraining {
  std::int64_t steps = 2000;        ///< gradient steps, at least 1
  std::int64_t batch = 256;         ///< samples a step, at least 1
  std::int64_t report_every = 100;  ///< gradient steps in an "epoch" of the reports, at least 1
};

namespace detail {

using PretrainingKind = KindOf<Pretraining>;

/// Whether a type is a component of a Pretrainer.
template <class T>
inline constexpr bool is_pretraining_component =
    is_any<T, PretrainingKind, OptimizationKind, ForwardKind, SeedKind, CommunicatorKind>;

template <class Data>
using DataOf = std::remove_cvref_t<std::invoke_result_t<Data&, std::int64_t, Generator&>>;

/// The condition of a batch of data.
template <class Batch>
struct DataCondition {
  using type = Unconditional;
};
template <class C>
struct DataCondition<ConditionedData<C>> {
  using type = C;
};

/// The last batch of data as a source of conditions: sample i is under condition i.
template <class C>
class BatchSource {
 public:
  std::int64_t size() const { return size_; }
  C condition(const Tensor& ids) const { return select(*rows_, ids); }
  void set(C rows, std::int64_t size) {
    rows_ = std::move(rows);
    size_ = size;
  }

 private:
  std::optional<C> rows_;
  std::int64_t size_ = 0;
};

}  // namespace detail

/// Trains a model by flow matching, `mean (v_theta(x_t, t) - (eps - x0))^2`: the term FlowMatching
/// on a stream of data.
///
/// `Pretrainer(model, data, components...)`; components are Pretraining, Optimization (default
/// adamw() of learning rate 2e-3), ForwardProcess (default UniformTimes), Seed and a Communicator
/// (whose ranks draw the same data and learn from their share of it), in any order. An epoch is
/// `report_every` gradient steps. For the whole of it in one call see pretrain().
template <class M, class Data, class Comm = Alone>
class Pretrainer
    : public Training<
          Pretrainer<M, Data, Comm>, SingleModel<M>, Sum<FlowMatching>,
          detail::BatchSource<typename detail::DataCondition<detail::DataOf<Data>>::type>, Comm> {
  using C = typename detail::DataCondition<detail::DataOf<Data>>::type;
  using Base = Training<Pretrainer<M, Data, Comm>, SingleModel<M>, Sum<FlowMatching>,
                        detail::BatchSource<C>, Comm>;

 public:
  /// @param model a TrainableModel; its own weights are trained
  /// @param data called as `data(count, generator)`, gives x0 [count, ...] or ConditionedData;
  /// samples and conditions that are tensors go to the device of the model
  /// @param components any of them, in any order
  /// @throws Error if an option is out of range
  template <class... Components>
  Pretrainer(M model, Data data, const Components&... components)
      : Base(SingleModel<M>(std::move(model)), as_sum(FlowMatching{}), {},
             detail::pick<detail::SeedKind, Seed>(components...).value, Learning{},
             detail::pick<detail::OptimizationKind, Optimization>(components...),
             adamw({.learning_rate = 2e-3}),
             detail::pick<detail::CommunicatorKind, Alone>(components...)),
        data_(std::move(data)),
        options_(detail::pick<detail::PretrainingKind, Pretraining>(components...)) {
    static_assert((detail::is_pretraining_component<Components> && ...),
                  "contraflow: a component of a Pretrainer must be Pretraining, Optimization, "
                  "ForwardProcess, Seed or a Communicator");
    expects(options_.steps >= 1, "steps", "at least 1", options_.steps);
    expects(options_.batch >= 1, "batch", "at least 1", options_.batch);
    expects(options_.report_every >= 1, "report_every", "at least 1", options_.report_every);
    this->settings_.emplace_back("steps", shown(options_.steps));
    this->settings_.emplace_back("batch", shown(options_.batch));
    this->settings_.emplace_back("report_every", shown(options_.report_every));
    auto forward = detail::pick<detail::ForwardKind, ForwardProcess>(components...);
    if (!forward.times) forward.times = UniformTimes{};
    this->learner_.set(std::move(forward));
  }

  /// Epochs in which all steps are made; the last may have fewer.
  std::int64_t epochs() const {
    return (options_.steps + options_.report_every - 1) / options_.report_every;
  }

  using Base::run_epoch;
  /// `report_every` gradient steps.
  template <class Warn>
  EpochReport run_epoch(Warn&&) {
    return this->undone_if_given_up(options_.report_every, [&] { return steps_of_epoch(); });
  }

 private:
  EpochReport steps_of_epoch() {
    const Stopwatch watch;
    LearnReport learnt;
    const std::int64_t first = this->epoch_ * options_.report_every;
    const std::int64_t last = std::min(first + options_.report_every, options_.steps);
    for (std::int64_t step = first; step < std::max(last, first + 1); ++step) {
      learn(static_cast<std::uint64_t>(step), learnt);
    }
    this->seconds_ += watch.seconds();
    EpochReport report;
    this->add_learnt(report, std::move(learnt));
    report.add("seconds/epoch", watch.seconds());
    this->finish(report);
    return report;
  }

  void learn(std::uint64_t step, LearnReport& learnt) {
    Generator of_data = seeded(this->seed_).stream(Purpose::data, step);
    auto batch = data_(options_.batch, of_data);
    const at::Device device = this->policy_.parameters().front().device();
    ScoredRollout<NothingRecorded> samples;
    Rollout<NothingRecorded>& rollout = samples.rollout;
    if constexpr (std::convertible_to<decltype(batch), Tensor>) {
      rollout.x0 = batch;
      this->source_.set({}, rollout.x0.size(0));
    } else {
      rollout.x0 = batch.x0;
      if constexpr (std::same_as<C, Tensor>) batch.condition = on_device(batch.condition, device);
      this->source_.set(std::move(batch.condition), rollout.x0.size(0));
    }
    expects_samples(rollout.x0, "data");
    rollout.x0 = on_device(rollout.x0, device);
    rollout.prompt = rollout.group = rollout.id = at::arange(rollout.size(), at::kLong);
    samples.is_everywhere = true;
    this->learner_.learn(samples, grid_, seeded(this->seed_).stream(Purpose::order, step), learnt);
  }

  Data data_;
  Pretraining options_;
  TimeGrid grid_ = uniform_grid(1000);  ///< for GridTimes without a grid of their own
};

/// Deduces the types of model and data.
template <class M, class Data, class... Components>
Pretrainer(M, Data, Components...)
    -> Pretrainer<M, Data, detail::Pick<detail::CommunicatorKind, Alone, Components...>>;

/// Trains a model by flow matching, as a Pretrainer, to its last step.
/// @param model a TrainableModel; its own weights are trained
/// @param data called as `data(count, generator)`, gives x0 [count, ...] or ConditionedData
/// @param parts components of a Pretrainer and observers, in any order
/// @return how it ended; steps whose loss is not finite are skipped and counted
/// @throws Error if an option is out of range
template <class M, class Data, class... Parts>
RunReport pretrain(M& model, Data&& data, Parts&&... parts) {
  const auto components_of = []<class T>(T& part) {
    if constexpr (detail::is_pretraining_component<std::remove_cvref_t<T>>) {
      return std::tuple<std::remove_cvref_t<T>>(part);
    } else {
      return std::tuple<>();
    }
  };
  const auto observers_of = []<class T>(T& part) {
    if constexpr (detail::is_pretraining_component<std::remove_cvref_t<T>>) {
      return std::tuple<>();
    } else {
      return std::tuple<T&>(part);
    }
  };
  const auto make = [&](const auto&... components) {
    using Comm =
        detail::Pick<detail::CommunicatorKind, Alone, std::remove_cvref_t<decltype(components)>...>;
    using Drawn = std::reference_wrapper<std::remove_reference_t<Data>>;
    return std::make_unique<Pretrainer<M, Drawn, Comm>>(model, std::ref(data), components...);
  };
  const auto trainer = std::apply(make, std::tuple_cat(components_of(parts)...));
  return std::apply(
      [&](auto&... observers) { return trainer->run(trainer->epochs(), observers...); },
      std::tuple_cat(observers_of(parts)...));
}

}  // namespace contraflow
