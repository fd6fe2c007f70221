#pragma once

/// @file
/// The concept FlowModel, and the ways to call, clone and ask a model.

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <contraflow/core/condition.hpp>

namespace contraflow {

namespace detail {
template <class M>
concept Holder = std::is_base_of_v<torch::detail::ModuleHolderIndicator, M>;

/// The call of a model. A holder's own call operator cannot be tested without an error where its
/// module has no such `forward`, so the module is asked.
template <class M>
struct Call {
  template <class... C>
  static auto of(M& model, const Tensor& x_t, const Tensor& t, const C&... condition)
      -> decltype(model(x_t, t, condition...)) {
    return model(x_t, t, condition...);
  }
};
template <Holder M>
struct Call<M> {
  template <class... C>
  static auto of(M& model, const Tensor& x_t, const Tensor& t, const C&... condition)
      -> decltype(model->forward(x_t, t, condition...)) {
    return model->forward(x_t, t, condition...);
  }
};

template <class M, class C>
concept CallableWith = requires(M& m, const Tensor& x, const Tensor& t, const C& c) {
  Call<M>::of(m, x, t, c);
};
template <class M>
concept CallableWithout = requires(M& m, const Tensor& x, const Tensor& t) {
  Call<M>::of(m, x, t);
};
}  // namespace detail

/// `m(x_t, t)` gives a tensor; of a module holder, `m->forward(x_t, t)`.
template <class M>
concept HasUnconditionalVelocity = requires(M& m, const Tensor& x, const Tensor& t) {
  { detail::Call<M>::of(m, x, t) } -> std::convertible_to<Tensor>;
};

/// `m(x_t, t, condition)` gives a tensor; of a module holder, `m->forward(x_t, t, condition)`.
template <class M, class C>
concept HasConditionalVelocity = requires(M& m, const Tensor& x, const Tensor& t, const C& c) {
  { detail::Call<M>::of(m, x, t, c) } -> std::convertible_to<Tensor>;
};

/// The torch module behind a model: the model is a module holder, or has `m.module()`.
template <class M>
concept HasModule = detail::Holder<M> || requires(const M& m) {
  { m.module() } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
};

/// A model can be cloned: it is a module holder, or has `m.clone()`.
template <class M>
concept HasClone = detail::Holder<M> || requires(const M& m) {
  { m.clone() } -> std::same_as<M>;
};

/// `m.sample_shape()`: the shape of one sample, without the batch.
template <class M>
concept HasSampleShape = requires(M& m) {
  { m.sample_shape() } -> std::convertible_to<std::vector<std::int64_t>>;
}
|| requires(M& m) {
  { m->sample_shape() } -> std::convertible_to<std::vector<std::int64_t>>;
};

/// The velocity of a flow: v(x_t, t | condition), in the library's convention.
///
/// Valid expressions, with x_t [B, ...] floating-point and t float32 [B] in [0, 1]: `m(x_t, t)`
/// where the condition is Unconditional, or `m(x_t, t, condition)`; either gives the velocity, of
/// the shape of x_t. Laws: a sample's velocity does not depend on the others of its batch; equal
/// input gives equal bits.
template <class M, class C = Unconditional>
concept FlowModel = HasConditionalVelocity<M, C> ||
    (std::same_as<C, Unconditional>&& HasUnconditionalVelocity<M>);

/// A FlowModel that can be trained: its parameters are a torch module's and it can be cloned.
template <class M, class C = Unconditional>
concept TrainableModel = FlowModel<M, C> && HasModule<M> && HasClone<M>;

/// Says in a sentence why @p M is not a FlowModel under the condition @p C.
template <class M, class C = Unconditional>
consteval bool explain_flow_model() {
  constexpr bool conditional = detail::CallableWith<M, C>;
  constexpr bool unconditional = std::same_as<C, Unconditional> && detail::CallableWithout<M>;
  static_assert(conditional || unconditional,
                "contraflow: a FlowModel must be callable as `model(x_t, t)` or as `model(x_t, t, "
                "condition)` with the condition that the prompts give; one that takes labels or "
                "captions needs prompts: give the trainer some, such as class_prompts");
  static_assert(!(conditional || unconditional) || FlowModel<M, C>,
                "contraflow: a FlowModel must return a torch::Tensor, the velocity, of the shape "
                "of x_t");
  return true;
}

/// Says in a sentence why @p M cannot be trained.
template <class M>
consteval bool explain_trainable() {
  static_assert(HasModule<M>,
                "contraflow: a model that is trained needs its torch module: pass a module holder, "
                "give the model `module()`, or use contraflow::ModuleVelocity(module, callable)");
  static_assert(HasClone<M>,
                "contraflow: a model that is trained must be cloneable: pass a module holder or "
                "give the model `M clone() const`");
  return true;
}

/// The velocity of a model, checked: the way in which the library calls a model.
/// @param model a FlowModel under the condition
/// @param x_t samples at the times t, floating-point [B, ...]
/// @param t times in [0, 1], [B]
/// @param condition of B rows, or Unconditional
/// @return the velocity, of the shape of x_t
/// @throws Error if the condition is of another batch or the model returns another shape
template <class M, class C>
Tensor velocity_of(M& model, const Tensor& x_t, const Tensor& t, const C& condition) {
  static_assert(explain_flow_model<M, C>());
  expects_condition_of(condition, x_t);
  Tensor v;
  if constexpr (HasConditionalVelocity<M, C>) {
    v = detail::Call<M>::of(model, x_t, t, condition);
  } else if constexpr (HasUnconditionalVelocity<M>) {
    v = detail::Call<M>::of(model, x_t, t);
  }
  expects_like(v, x_t, "velocity returned by the model");
  return v;
}

/// The torch module behind a model: its parameters are what is trained.
template <HasModule M>
std::shared_ptr<torch::nn::Module> module_of(const M& model) {
  if constexpr (detail::Holder<M>) {
    return model.ptr();
  } else {
    return model.module();
  }
}

/// A deep copy of a model, which shares no weights with it. Copying a module holder would alias its
/// weights.
/// @throws Error if the module does not derive from torch::nn::Cloneable
template <HasClone M>
M clone_of(const M& model) {
  if constexpr (detail::Holder<M>) {
    using Impl = typename M::ContainedType;
    try {
      return M(std::dynamic_pointer_cast<Impl>(model->clone()));
    } catch (const c10::Error&) {
      throw Error("model", "a module that derives from torch::nn::Cloneable", model->name());
    }
  } else {
    return model.clone();
  }
}

/// The shape of one sample of a model, without the batch.
template <HasSampleShape M>
std::vector<std::int64_t> sample_shape_of(M& model) {
  if constexpr (requires { model.sample_shape(); }) {
    return model.sample_shape();
  } else {
    return model->sample_shape();
  }
}

}  // namespace contraflow
