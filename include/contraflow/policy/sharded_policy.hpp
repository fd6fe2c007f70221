#pragma once

/// @file
/// A policy whose roles are divided between ranks.

#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/policy/snapshot_policy.hpp>

namespace contraflow {

namespace detail {

/// A model whose tensors are those of one role at a time, and of none in between.
template <class M>
class Shell {
 public:
  /// @param model a clone, whose own values are given up
  explicit Shell(M model) : model_(std::move(model)), tensors_(tensors_of_module(model_)) {
    for (const Tensor& tensor : tensors_) Tensor(tensor).set_requires_grad(false);
    clear();
  }
  Shell(const Shell&) = delete;

  /// Every parameter and buffer of a model, in the order of its module.
  static std::vector<Tensor> tensors_of_module(const M& model) {
    std::vector<Tensor> tensors = module_of(model)->parameters();
    for (const Tensor& buffer : module_of(model)->buffers()) tensors.push_back(buffer);
    return tensors;
  }

  /// The model, and whose it is.
  M& model() { return model_; }
  const std::optional<Role>& role() const { return role_; }

  void fill(Role role, const std::vector<Tensor>& values) {
    for (std::size_t i = 0; i < tensors_.size(); ++i) tensors_[i].set_data(values[i]);
    role_ = role;
  }
  void clear() {
    for (Tensor& tensor : tensors_) tensor.set_data(at::empty({0}, tensor.options()));
    role_ = std::nullopt;
  }

 private:
  M model_;
  std::vector<Tensor> tensors_;
  std::optional<Role> role_;
};

}  // namespace detail

/// The policy of SnapshotPolicy, divided between ranks: for full fine-tuning beyond the memory of
/// one device.
///
/// Every rank has the whole trained model. Of the optimiser's state, the average, and the roles
/// that the objective asks for, each tensor is one rank's: n ranks keep an n-th of them each
/// (Rajbhandari and others 2020, ZeRO, stage 2, and the roles likewise). Gradients are added up on
/// the rank that has the optimiser's state of a tensor, which then tells the others its new values.
///
/// A role other than `current` is asked while it is gathered(), one at a time: trainers do so
/// before they collect, evaluate, and make a gradient step. Runs come to what those of a
/// SnapshotPolicy with as many ranks come to, and checkpoints are the same files.
///
///     cf::Trainer trainer(cf::ShardedPolicy(model, mpi), solver, reward, objective, mpi);
/// @tparam Comm of the ranks, the trainer's
template <class M, Communicator Comm>
class ShardedPolicy {
 public:
  using Model = M;  ///< of each role
  /// The roles it answers for.
  using Available = Roles<Role::current, Role::old, Role::reference, Role::average, Role::sampler>;

  /// Makes a role's weights whole while it lives.
  class Gathered {
   public:
    Gathered() = default;  ///< of a role that is whole anyway
    /// Of what is to be given up afterwards.
    explicit Gathered(std::shared_ptr<detail::Shell<M>> shell) : shell_(std::move(shell)) {}
    Gathered(Gathered&&) noexcept = default;  ///< the other is of nothing then
    Gathered& operator=(Gathered&&) = delete;
    /// Gives the weights up.
    ~Gathered() {
      if (shell_) shell_->clear();
    }

   private:
    std::shared_ptr<detail::Shell<M>> shell_;
  };

  /// @param model is trained itself: the caller's holder keeps seeing its weights; the same on all
  ///   ranks
  /// @param communicator of the ranks
  /// @param options how the roles follow
  /// @throws Error if the model keeps weights in 8 bits, or an option is out of range
  ShardedPolicy(M model, Comm communicator, SnapshotOptions options = {})
      : current_(std::move(model)),
        communicator_(std::move(communicator)),
        options_(std::move(options)),
        shell_(std::make_shared<detail::Shell<M>>(clone_of(current_))),
        tensors_(detail::Shell<M>::tensors_of_module(current_)),
        owners_(divided(tensors_)) {
    static_assert(explain_trainable<M>());
    expects_trainable_weights(*module_of(current_));
    expects(options_.average_every >= 1, "average_every", "at least 1", options_.average_every);
    add(Role::average);
  }

  /// Copies the roles of a set that are not kept yet, from the model as it is now.
  template <Role... R>
  void keep(Roles<R...>) {
    if (Roles<R...>::template contains<Role::old>) add(Role::old);
    if (Roles<R...>::template contains<Role::reference>) add(Role::reference);
    if (Roles<R...>::template contains<Role::sampler>) add(Role::sampler);
  }

  /// Makes the weights of a role whole on all ranks while the result lives: collective. Nothing is
  /// to be done for `current`, nor where the role is gathered already.
  /// @throws Error for a role that is not kept, and while another one is gathered
  [[nodiscard]] Gathered gathered(Role role) {
    if (role == Role::current || shell_->role() == role) return {};
    if (shell_->role()) {
      throw Error("role", "one role gathered at a time",
                  name_of(*shell_->role()) + " and " + name_of(role));
    }
    const std::vector<Tensor>& own = kept(role);
    std::vector<Tensor> whole;
    for (std::size_t i = 0; i < own.size(); ++i) {
      whole.push_back(own[i].defined() ? own[i] : at::empty_like(tensors_[i].detach()));
    }
    if (communicator_.size() > 1) {
      for (const Bucket& bucket : buckets_of(whole, owners_)) {
        broadcast_from(communicator_, contraflow::tensors_of(bucket, whole), bucket.owner);
      }
    }
    shell_->fill(role, whole);
    return Gathered(shell_);
  }

  /// The velocity of a role; only that of `current` carries gradients.
  /// @throws Error for another role that is not gathered
  template <class C>
  Tensor velocity(Role role, const Tensor& x_t, const Tensor& t, const C& condition) {
    if (role == Role::current) return velocity_of(current_, x_t, t, condition);
    const at::NoGradGuard no_gradient;
    return velocity_of(model(role), x_t, t, condition);
  }

  /// The model of a role.
  /// @throws Error for a role other than `current` that is not gathered
  M& model(Role role) {
    if (role == Role::current) return current_;
    if (shell_->role() == role) return shell_->model();
    throw Error("role", "a role that is gathered: policy.gathered(role) on all ranks, before",
                name_of(role));
  }

  /// What is trained: the parameters of the current model that require gradients.
  std::vector<Tensor> parameters() { return trained_parameters(current_); }

  /// Lets the average follow; @p step counts gradient steps since the start.
  void after_gradient_step(std::int64_t step) {
    if (step % options_.average_every == 0) follow(Role::average, options_.average_decay(step));
  }
  /// Whether `old` follows gradient steps, and not epochs.
  bool old_follows_steps() const { return options_.old_every_step; }
  /// Lets `old` follow a gradient step; @p step counts them since the start.
  void after_step_of_collector(std::int64_t step) {
    if (keeps(Role::old)) follow(Role::old, options_.old_decay(step));
  }
  /// Lets the roles that collect follow; @p step counts gradient steps since the start.
  void after_epoch(std::int64_t step) {
    if (keeps(Role::old) && !options_.old_every_step) follow(Role::old, options_.old_decay(step));
    if (keeps(Role::sampler)) follow(Role::sampler, options_.sampler_decay(step));
  }

  /// `|current - old| / |old|` over the weights: collective; nothing where no old role is kept.
  std::optional<double> old_deviation() {
    if (!keeps(Role::old)) return std::nullopt;
    const auto square = [](const Tensor& x) {
      return x.to(at::kDouble).square().sum().template item<double>();
    };
    const at::NoGradGuard no_gradient;
    double moved = 0, size = 0;
    for_each_own(Role::old, [&](const Tensor& old, const Tensor& current) {
      if (!old.is_floating_point()) return;
      moved += square(current.to(at::kDouble) - old.to(at::kDouble));
      size += square(old);
    });
    const Tensor squares = at::tensor({moved, size}, at::kDouble);
    communicator_.sum({squares});
    size = squares[1].template item<double>();
    return size > 0 ? std::sqrt(squares[0].template item<double>() / size) : 0;
  }

  /// The shape of a sample, where the model knows it.
  std::vector<std::int64_t> sample_shape() requires HasSampleShape<M> {
    return sample_shape_of(current_);
  }

  /// Of the ranks.
  const Comm& communicator() const { return communicator_; }
  /// The rank of each of parameters().
  std::vector<int> owners() {
    std::vector<int> owners;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].requires_grad()) owners.push_back(owners_[i]);
    }
    return owners;
  }

  /// Every tensor of every role, as "role.parameter", of all ranks.
  std::vector<StatePart> state_parts() {
    const std::vector<std::string> names = names_of_tensors();
    std::vector<StatePart> parts;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      parts.push_back({Role::current.name_with("." + names[i]), 0, tensors_[i], tensors_[i]});
    }
    for (const auto& [role, own] : roles_) {
      for (std::size_t i = 0; i < own.size(); ++i) {
        parts.push_back({role + "." + names[i], owners_[i], own[i], tensors_[i]});
      }
    }
    return parts;
  }

  /// Every tensor of the current model, and those of the other roles that this rank has, as
  /// "role.parameter".
  std::map<std::string, Tensor> state() {
    std::map<std::string, Tensor> own;
    for (const StatePart& part : state_parts()) {
      if (part.values.defined()) own.emplace(part.name, part.values);
    }
    return own;
  }

  /// Takes over what state() gave, of this rank or of a SnapshotPolicy: all that this rank has, or
  /// nothing where an error is thrown.
  /// @throws Error if a tensor is missing or has another shape, or a role is gathered
  void load(const std::map<std::string, Tensor>& tensors) {
    expects_nothing_gathered();
    restore(state(), tensors);
  }

 private:
  static std::string name_of(Role role) { return std::string(role.name()); }
  bool keeps(Role role) const { return roles_.contains(name_of(role)); }
  const std::vector<Tensor>& kept(Role role) const {
    const auto found = roles_.find(name_of(role));
    if (found != roles_.end()) return found->second;
    throw Error("role", "a role that was kept before training", name_of(role));
  }

  /// Who has which tensor: what is trained is divided evenly, and so is all together.
  std::vector<int> divided(const std::vector<Tensor>& tensors) const {
    std::vector<std::int64_t> trained, others, loads(std::size_t(communicator_.size()), 0);
    for (const Tensor& tensor : tensors) {
      (tensor.requires_grad() ? trained : others).push_back(std::int64_t(tensor.nbytes()));
    }
    const std::vector<int> of_trained = balanced_owners(trained, loads);
    const std::vector<int> of_others = balanced_owners(others, loads);
    auto next_trained = of_trained.begin(), next_other = of_others.begin();
    std::vector<int> owners;
    for (const Tensor& tensor : tensors) {
      owners.push_back(tensor.requires_grad() ? *next_trained++ : *next_other++);
    }
    return owners;
  }

  void add(Role role) {
    if (keeps(role)) return;
    std::vector<Tensor>& own = roles_[name_of(role)];
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const bool is_own = owners_[i] == communicator_.rank();
      own.push_back(is_own ? tensors_[i].detach().clone() : Tensor());
    }
  }

  /// Calls @p body(tensor of the role, current tensor) for what this rank has of a role.
  template <class Body>
  void for_each_own(Role role, Body&& body) const {
    const std::vector<Tensor>& own = kept(role);
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (own[i].defined()) body(own[i], tensors_[i]);
    }
  }
  /// What is gathered is a copy of now.
  void expects_nothing_gathered() const {
    if (!shell_->role()) return;
    throw Error("role", "none that is gathered while roles change", name_of(*shell_->role()));
  }
  void follow(Role role, double decay) {
    expects_nothing_gathered();
    std::vector<Tensor> moved, towards;
    for_each_own(role, [&](const Tensor& own, const Tensor& current) {
      moved.push_back(own);
      towards.push_back(current);
    });
    if (!moved.empty()) move_average(moved, towards, decay);
  }

  /// The names of tensors_, in their order.
  std::vector<std::string> names_of_tensors() const {
    std::vector<std::string> names;
    const auto module = module_of(current_);
    for (const auto& item : module->named_parameters()) names.push_back(item.key());
    for (const auto& item : module->named_buffers()) names.push_back(item.key());
    return names;
  }

  M current_;
  Comm communicator_;
  SnapshotOptions options_;
  std::shared_ptr<detail::Shell<M>> shell_;           ///< for the role that is gathered
  std::vector<Tensor> tensors_;                       ///< of the current model
  std::vector<int> owners_;                           ///< of each of them
  std::map<std::string, std::vector<Tensor>> roles_;  ///< what this rank has of each
};

}  // namespace contraflow
