// Guidance whose negative velocity carries no gradient.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/model/guidance.hpp>

#include "laws/compare.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

// v = w (x + label), with a weight, that counts its calls.
struct Scaled {
  Tensor weight = at::full({1}, 0.7, at::kDouble).requires_grad_();
  int* calls;

  Tensor operator()(const Tensor& x, const Tensor&, const Tensor& label) const {
    ++*calls;
    return weight * (x + label.unsqueeze(1));
  }
};

struct Found {
  Tensor value, gradient;
  int calls;
};
Found found(cf::GuidanceGradient gradient) {
  int calls = 0;
  const Scaled model{.calls = &calls};
  cf::Guided guided(model, at::zeros({1}, at::kDouble), 3.0, gradient);
  const Tensor x = laws::doubles({4, 2}), t = at::full({4}, 0.5, at::kDouble);
  const Tensor v = guided(x, t, at::full({4}, 2.0, at::kDouble));
  v.sum().backward();
  return {v.detach(), model.weight.grad()[0], calls};
}

}  // namespace

TEST_CASE("guidance without the gradient of the negative velocity has the same value") {
  const Found both = found(cf::GuidanceGradient::both);
  const Found positive = found(cf::GuidanceGradient::positive);
  CHECK(laws::relative_distance(positive.value, both.value) < 1e-12);
  // d/dw of u + 3 (c - u), with u = w x and c = w (x + 2): 3 (x + 2) - 2 x, or without -2 x.
  const Tensor x = laws::doubles({4, 2});
  CHECK(laws::relative_distance(both.gradient, (x + 6).sum()) < 1e-12);
  CHECK(laws::relative_distance(positive.gradient, (3 * (x + 2)).sum()) < 1e-12);
  CHECK(both.calls == 1);
  CHECK(positive.calls == 2);
}

TEST_CASE("where nobody asks for a gradient it is one pass") {
  int calls = 0;
  const at::NoGradGuard no_gradient;
  cf::Guided guided(Scaled{.calls = &calls}, at::zeros({1}, at::kDouble), 3.0,
                    cf::GuidanceGradient::positive);
  guided(laws::doubles({4, 2}), at::full({4}, 0.5, at::kDouble), at::ones({4}, at::kDouble));
  CHECK(calls == 1);
}
