#pragma once

/// @file
/// A policy of one role.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <contraflow/model/concept.hpp>
#include <contraflow/network/weights.hpp>
#include <contraflow/policy/average.hpp>
#include <contraflow/policy/concept.hpp>
#include <contraflow/policy/role_tensors.hpp>

namespace contraflow {

/// A model as a policy of the one role `current`, without clones: what pre-training needs.
template <class M>
class SingleModel {
 public:
  /// The roles it answers for.
  using Available = Roles<Role::current>;

  /// @param model is trained itself: the caller's holder keeps seeing its weights
  /// @throws Error if it keeps weights in 8 bits
  explicit SingleModel(M model) : model_(std::move(model)) {
    static_assert(explain_trainable<M>());
    expects_trainable_weights(*module_of(model_));
  }

  /// The velocity of the model.
  template <class C>
  Tensor velocity(Role, const Tensor& x_t, const Tensor& t, const C& condition) {
    return velocity_of(model_, x_t, t, condition);
  }
  /// The model.
  M& model() { return model_; }
  /// What is trained.
  std::vector<Tensor> parameters() { return trained_parameters(model_); }
  /// Nothing is to be prepared.
  template <class RoleSet>
  void keep(RoleSet) {}
  /// Nothing follows.
  void after_gradient_step(std::int64_t) {}
  /// Nothing follows.
  void after_epoch(std::int64_t) {}
  /// The shape of a sample, where the model knows it.
  std::vector<std::int64_t> sample_shape() requires HasSampleShape<M> {
    return sample_shape_of(model_);
  }
  /// Every tensor of the model, as "current.parameter".
  std::map<std::string, Tensor> state() { return named_tensors(model_, Role::current); }
  /// Takes over what state() gave: all of it, or nothing where an error is thrown.
  /// @throws Error if a tensor is missing or has another shape
  void load(const std::map<std::string, Tensor>& tensors) { restore(state(), tensors); }

 private:
  M model_;
};

}  // namespace contraflow
