#pragma once

/// @file
/// A policy whose roles are clones.

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/network/weights.hpp>
#include <contraflow/policy/average.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/policy/role_tensors.hpp>
#include <contraflow/time/schedule.hpp>

namespace contraflow {

/// How the snapshots of a SnapshotPolicy follow the model.
struct SnapshotOptions {
  /// d in `old = d old + (1 - d) current`, after each epoch; the published ramp.
  Schedule old_decay = Ramp{.rate = 0.001, .max = 0.5};
  /// d in `average = d average + (1 - d) current`; the published one.
  Schedule average_decay = WarmingUp{.max = 0.9};
  /// Gradient steps between updates of the average, at least 1 (Flow-GRPO: 8).
  std::int64_t average_every = 1;
  /// d in `sampler = d sampler + (1 - d) current`, after each epoch; that of CRD.
  Schedule sampler_decay = Linear{.start = 75, .slope = 0.0075, .end = 0.999};
  /// The old role follows after each gradient step instead of each epoch, as in DGPO.
  bool old_every_step = false;
};

/// A policy whose roles are clones of one model: for models small enough to be kept several times.
///
/// Only the roles that the objective asks for are cloned, and the average.
template <class M>
class SnapshotPolicy {
 public:
  using Model = M;  ///< of each role
  /// The roles it answers for.
  using Available = Roles<Role::current, Role::old, Role::reference, Role::average, Role::sampler>;

  /// @param model is trained itself: the caller's holder keeps seeing its weights
  /// @param options how the snapshots follow
  /// @throws Error if the model keeps weights in 8 bits, or an option is out of range
  explicit SnapshotPolicy(M model, SnapshotOptions options = {})
      : current_(std::move(model)), options_(std::move(options)) {
    static_assert(explain_trainable<M>());
    expects_trainable_weights(*module_of(current_));
    expects(options_.average_every >= 1, "average_every", "at least 1", options_.average_every);
    average_.emplace(frozen());
  }

  /// Clones the roles of a set that are not kept yet, from the model as it is now.
  template <Role... R>
  void keep(Roles<R...>) {
    if (Roles<R...>::template contains<Role::old> && !old_) old_.emplace(frozen());
    if (Roles<R...>::template contains<Role::reference> && !reference_)
      reference_.emplace(frozen());
    if (Roles<R...>::template contains<Role::sampler> && !sampler_) sampler_.emplace(frozen());
  }

  /// The velocity of a role; only that of `current` carries gradients.
  /// @throws Error for a role that is not kept
  template <class C>
  Tensor velocity(Role role, const Tensor& x_t, const Tensor& t, const C& condition) {
    if (role == Role::current) return velocity_of(current_, x_t, t, condition);
    const at::NoGradGuard no_gradient;
    return velocity_of(model(role), x_t, t, condition);
  }

  /// The model of a role.
  /// @throws Error for a role that is not kept
  M& model(Role role) {
    if (role == Role::current) return current_;
    if (role == Role::average && average_) return *average_;
    if (role == Role::old && old_) return *old_;
    if (role == Role::reference && reference_) return *reference_;
    if (role == Role::sampler && sampler_) return *sampler_;
    throw Error("role", "a role that was kept before training", std::string(role.name()));
  }

  /// Every tensor of a role's model, by name.
  /// @throws Error for a role that is not kept
  std::map<std::string, Tensor> tensors_of(Role role) { return named_tensors(model(role), role); }

  /// What is trained: the parameters of the current model that require gradients.
  std::vector<Tensor> parameters() { return trained_parameters(current_); }

  /// Lets the average follow; @p step counts gradient steps since the start.
  void after_gradient_step(std::int64_t step) {
    if (step % options_.average_every == 0) follow(average_, options_.average_decay(step));
  }
  /// Whether `old` follows gradient steps, and not epochs.
  bool old_follows_steps() const { return options_.old_every_step; }
  /// Lets `old` follow a gradient step; @p step counts them since the start.
  void after_step_of_collector(std::int64_t step) {
    if (old_) follow(old_, options_.old_decay(step));
  }
  /// Lets the roles that collect follow; @p step counts gradient steps since the start.
  void after_epoch(std::int64_t step) {
    if (old_ && !options_.old_every_step) follow(old_, options_.old_decay(step));
    if (sampler_) follow(sampler_, options_.sampler_decay(step));
  }

  /// `|current - old| / |old|` over the weights; nothing where no old role is kept.
  std::optional<double> old_deviation() {
    if (!old_) return std::nullopt;
    return relative_distance(floating(weights(current_)), floating(weights(*old_)));
  }

  /// The shape of a sample, where the model knows it.
  std::vector<std::int64_t> sample_shape() requires HasSampleShape<M> {
    return sample_shape_of(current_);
  }

  /// Every tensor of every role, as "role.parameter".
  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> tensors;
    for_each_model([&](Role role, M& model) { tensors.merge(named_tensors(model, role)); });
    return tensors;
  }

  /// Takes over what state() gave: all of it, or nothing where an error is thrown.
  /// @throws Error if a tensor is missing or has another shape
  void load(const std::map<std::string, Tensor>& tensors) { restore(state(), tensors); }

 private:
  M frozen() const {
    M copy = clone_of(current_);
    for (const Tensor& parameter : module_of(copy)->parameters()) {
      Tensor(parameter).set_requires_grad(false);
    }
    return copy;
  }

  void follow(std::optional<M>& snapshot, double decay) {
    move_average(weights(*snapshot), weights(current_), decay);
  }

  static std::vector<Tensor> weights(M& model) {
    std::vector<Tensor> tensors = module_of(model)->parameters();
    for (const Tensor& buffer : module_of(model)->buffers()) tensors.push_back(buffer);
    return tensors;
  }

  static std::vector<Tensor> floating(std::vector<Tensor> tensors) {
    std::erase_if(tensors, [](const Tensor& tensor) { return !tensor.is_floating_point(); });
    return tensors;
  }

  template <class F>
  void for_each_model(F&& f) {
    f(Role::current, current_);
    if (old_) f(Role::old, *old_);
    if (reference_) f(Role::reference, *reference_);
    if (sampler_) f(Role::sampler, *sampler_);
    f(Role::average, *average_);
  }

  M current_;
  SnapshotOptions options_;
  std::optional<M> old_, reference_, average_, sampler_;
};

}  // namespace contraflow
