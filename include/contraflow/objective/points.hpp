#pragma once

/// @file
/// Where terms look at velocities, and the settings that mean something there only.

#include <concepts>
#include <functional>
#include <type_traits>
#include <utility>

#include <contraflow/objective/batch.hpp>
#include <contraflow/time/training_times.hpp>

namespace contraflow {

/// TrainingTimes of any type, or none.
class AnyTrainingTimes {
 public:
  /// None: who asks has a default.
  AnyTrainingTimes() = default;
  /// @param times TrainingTimes
  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, AnyTrainingTimes>)
      AnyTrainingTimes(T times)  // NOLINT: stands for what it holds
      : draw_(std::move(times)) {
    static_assert(TrainingTimes<T>,
                  "contraflow: training times must be callable as `times(units, grid, generator) "
                  "const` and give a tensor [units, K], such as GridTimes or UniformTimes");
  }

  /// Whether there are any.
  explicit operator bool() const { return static_cast<bool>(draw_); }
  /// As what it holds.
  Tensor operator()(std::int64_t units, const TimeGrid& grid, Generator& generator) const {
    return draw_(units, grid, generator);
  }

 private:
  std::function<Tensor(std::int64_t, const TimeGrid&, Generator&)> draw_;
};

/// Samples noised afresh: where terms on the forward process look, and how they are noised.
///
/// As `using Points = ForwardProcess` it says where a term needs velocities; as a component of a
/// trainer it holds the settings of these terms, and is refused where there are none.
struct ForwardProcess {
  /// At which samples are noised: any TrainingTimes. Unset: GridTimes of a Trainer, UniformTimes of
  /// an OfflineTrainer and of pre-training.
  AnyTrainingTimes times = {};
  /// Samples of one group are noised alike: the same noise at the same times. What they have in
  /// common then cancels in the difference between the good and the bad ones, as in a paired test.
  bool shared_noise = false;
  /// The distance of VelocityKl is reported by time, too, for each quarter of [0, 1].
  bool report_times = false;

  /// What its terms are given.
  template <class RoleSet, class C = Unconditional>
  using Batch = ForwardBatch<RoleSet, C>;
};

/// The recorded steps of the rollout: where terms on transitions look, and which are recorded.
///
/// As `using Points = RecordedTransitions` it says where a term needs velocities; as a component of
/// a trainer it holds the settings of these terms, and is refused where there are none.
struct RecordedTransitions {
  double fraction = 0.99;       ///< share of the grid's steps that are recorded, in (0, 1]
  std::int64_t per_sample = 0;  ///< random recorded steps that are trained on; 0: all
  bool report_steps = false;    ///< ratios of policy gradients are reported by step, too

  /// What its terms are given.
  template <class RoleSet, class C = Unconditional>
  using Batch = TransitionBatch<RoleSet, C>;
};

/// The path that made each sample: where terms on the gradient of the reward look, such as DraftK.
///
/// The rollout, which has no gradient, records the states that these terms ask for; from there the
/// last steps are made anew, with gradient. It has no settings.
struct RecordedPath {
  /// What its terms are given.
  template <class RoleSet, class C = Unconditional>
  using Batch = PathBatch<RoleSet, C>;
};

}  // namespace contraflow
