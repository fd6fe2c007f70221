#pragma once

#include <utility>

#include <contraflow/model/concept.hpp>
#include <contraflow/path/rectified_flow.hpp>

/// @file
/// Models of other conventions, converted at the border.
///
/// Conversions compose: a model that predicts noise at times 0 ... 1000 is
/// `PredictsEps(ScaledTime(model, 1000))`.

namespace contraflow {

namespace detail {

/// What every wrapper of a model forwards: the module, the clone and the sample's shape.
template <class Derived, class M>
class Wrapper {
 public:
  explicit Wrapper(M model) : model_(std::move(model)) {}

  /// What is wrapped.
  const M& wrapped() const { return model_; }

  std::shared_ptr<torch::nn::Module> module() const requires HasModule<M> {
    return module_of(model_);
  }
  Derived clone() const requires HasClone<M> {
    Derived copy = static_cast<const Derived&>(*this);
    copy.model_ = clone_of(model_);
    return copy;
  }
  std::vector<std::int64_t> sample_shape() requires HasSampleShape<M> {
    return sample_shape_of(model_);
  }

 protected:
  M model_;
};

/// The condition of a call that may have none.
inline Unconditional condition_of() { return {}; }
template <class C>
const C& condition_of(const C& condition) {
  return condition;
}

}  // namespace detail

/// A model that predicts clean data x0.
template <class M>
class PredictsX0 : public detail::Wrapper<PredictsX0<M>, M> {
 public:
  using detail::Wrapper<PredictsX0<M>, M>::Wrapper;
  /// The velocity, converted.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B]; result as x_t
  template <class... C>
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C&... condition) {
    return velocity_from_x0(
        x_t, velocity_of(this->model_, x_t, t, detail::condition_of(condition...)), t);
  }
};
/// Deduces the type of the model.
template <class M>
PredictsX0(M) -> PredictsX0<M>;

/// A model that predicts the noise eps.
template <class M>
class PredictsEps : public detail::Wrapper<PredictsEps<M>, M> {
 public:
  using detail::Wrapper<PredictsEps<M>, M>::Wrapper;
  /// The velocity, converted.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B]; result as x_t
  template <class... C>
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C&... condition) {
    return velocity_from_eps(
        x_t, velocity_of(this->model_, x_t, t, detail::condition_of(condition...)), t);
  }
};
/// Deduces the type of the model.
template <class M>
PredictsEps(M) -> PredictsEps<M>;

/// A model whose time runs from noise (0) to data (1), and whose velocity points to data.
template <class M>
class ReversedTime : public detail::Wrapper<ReversedTime<M>, M> {
 public:
  using detail::Wrapper<ReversedTime<M>, M>::Wrapper;
  /// The velocity, converted.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B]; result as x_t
  template <class... C>
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C&... condition) {
    return -velocity_of(this->model_, x_t, 1 - t, detail::condition_of(condition...));
  }
};
/// Deduces the type of the model.
template <class M>
ReversedTime(M) -> ReversedTime<M>;

/// A model whose time is counted up to @p scale, such as 1000, instead of 1.
template <class M>
class ScaledTime : public detail::Wrapper<ScaledTime<M>, M> {
 public:
  /// @param model a FlowModel whose time is t times the scale
  /// @param scale above 0
  explicit ScaledTime(M model, double scale = 1000)
      : detail::Wrapper<ScaledTime<M>, M>(std::move(model)), scale_(scale) {
    expects(scale > 0, "scale", "above 0", scale);
  }
  /// The velocity, converted.
  /// @par Shape
  /// @p x_t [B, ...], @p t [B]; result as x_t
  template <class... C>
  Tensor operator()(const Tensor& x_t, const Tensor& t, const C&... condition) {
    return velocity_of(this->model_, x_t, t * scale_, detail::condition_of(condition...));
  }

 private:
  double scale_;
};

}  // namespace contraflow
