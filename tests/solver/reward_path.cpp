// Ways from noise to samples: which of their steps carry gradients.

#include <algorithm>
#include <cmath>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/reward_path.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

const cf::TimeGrid grid = cf::uniform_grid(5);

// A velocity with a weight, that counts in how many evaluations the weight had a gradient.
struct Counting {
  Tensor weight = at::full({1}, 0.3, at::kDouble).requires_grad_();
  int with = 0, without = 0;

  Tensor operator()(const Tensor& x, double sigma) {
    (at::GradMode::is_enabled() ? with : without) += 1;
    return weight * x + sigma * (weight * x).sin();
  }
};

Tensor noise() { return laws::doubles({3, 2}, 1); }

}  // namespace

TEST_CASE("the whole chain in autograd has the gradient of a difference quotient") {
  cf::Generator unused = cf::seeded(0);
  const auto end = [&](Counting& v, std::size_t last) {
    return cf::draft_k_x0(cf::Euler{}, v, noise(), grid, last, unused).sin().sum();
  };
  Counting v;
  end(v, 5).backward();
  const double step = 1e-6;
  Counting up, down;
  up.weight = v.weight.detach() + step;
  down.weight = v.weight.detach() - step;
  const double quotient = (end(up, 5) - end(down, 5)).item<double>() / (2 * step);
  CHECK(std::abs(v.weight.grad().item<double>() - quotient) < 1e-6);
  CHECK(v.with == 5);
  CHECK(v.without == 0);
}

TEST_CASE("the samples are the same however few steps carry gradients") {
  cf::Generator unused = cf::seeded(0);
  Counting all, last;
  const Tensor whole = cf::draft_k_x0(cf::DpmSolver<2>{}, all, noise(), grid, 5, unused);
  const Tensor same = cf::draft_k_x0(cf::DpmSolver<2>{}, last, noise(), grid, 2, unused);
  CHECK(laws::same_bits(whole.detach(), same.detach()));
  CHECK(last.with == 2);
  CHECK(last.without == 3);
  CHECK(same.requires_grad());
  check_error([&] { cf::draft_k_x0(cf::Euler{}, all, noise(), grid, 6, unused); }, "last", "grid");
}

TEST_CASE("ReFL has the gradient of one velocity") {
  Counting v;
  const Tensor x0 = cf::refl_x0(v, noise(), grid, 3);
  CHECK(v.with == 1);
  CHECK(v.without == 3);
  // At the last step the prediction is the end of the chain.
  cf::Generator unused = cf::seeded(0);
  CHECK(relative_distance(cf::refl_x0(v, noise(), grid, 4),
                          cf::draft_k_x0(cf::Euler{}, v, noise(), grid, 1, unused)) < 1e-12);
  check_error([&] { cf::refl_x0(v, noise(), grid, 5); }, "step", "of the grid");
}

TEST_CASE("DRaFT-LV without copies is DRaFT-1, and a copy without noise adds its own prediction") {
  cf::Generator unused = cf::seeded(0);
  Counting v;
  const Tensor one = cf::draft_k_x0(cf::Euler{}, v, noise(), grid, 1, unused);
  const Tensor none = cf::draft_lv_x0(v, noise(), grid, at::empty({0, 3, 2}, at::kDouble));
  CHECK(laws::same_bits(none.detach(), one.detach()));
  const Tensor two = cf::draft_lv_x0(v, noise(), grid, laws::doubles({2, 3, 2}, 2));
  CHECK(two.sizes() == at::IntArrayRef({9, 2}));
  CHECK(laws::same_bits(two.narrow(0, 0, 3).detach(), one.detach()));
}

TEST_CASE("DRTune reaches early steps without a product of Jacobians") {
  // With v = w x the chain to x0 of two steps is a sum of dt_i w x_i: its derivative by w, with the
  // states held, is the sum of dt_i x_i.
  const cf::TimeGrid two({1, 0.5, 0});
  const Tensor w = at::full({1}, 0.3, at::kDouble).requires_grad_(), x = noise();
  const auto velocity = [&](const Tensor& state, double) { return w * state; };
  cf::drtune_x0(velocity, x, two, {0, 1}, 1).sum().backward();
  const Tensor next = x - 0.5 * 0.3 * x;
  CHECK(relative_distance(w.grad()[0], -0.5 * (x.sum() + next.sum())) < 1e-12);
  w.mutable_grad() = Tensor();
  cf::drtune_x0(velocity, x, two, {0}, 1).sum().backward();
  CHECK(relative_distance(w.grad()[0], -0.5 * x.sum()) < 1e-12);
  check_error([&] { cf::drtune_x0(velocity, x, two, {2}, 1); }, "train_steps", "of the grid");
}

TEST_CASE("DRTune on a chain that is there is DRTune on the chain that it makes") {
  const std::vector<std::size_t> steps{0, 2, 3};
  std::vector<Tensor> states;
  Counting made, there, whole;
  cf::Generator unused = cf::seeded(0);
  {
    const at::NoGradGuard no_gradient;
    cf::integrate(cf::Euler{}, made, noise(), grid, unused,
                  [&](const cf::Step& step, const Tensor& x, const Tensor&, const auto&) {
                    if (std::count(steps.begin(), steps.end(), step.index) > 0) states.push_back(x);
                  });
  }
  const Tensor x0 = cf::drtune_x0_of(there, at::stack(states), grid, steps);
  const Tensor same = cf::drtune_x0(whole, noise(), grid, steps, 3);
  CHECK(relative_distance(x0, same) < 1e-12);
  CHECK(there.with == 3);
  CHECK(there.without == 0);
  x0.sin().sum().backward();
  same.sin().sum().backward();
  CHECK(relative_distance(there.weight.grad(), whole.weight.grad()) < 1e-12);
  check_error([&] { cf::drtune_x0_of(there, at::stack(states), grid, {0, 2}); }, "states", "each");
  check_error(
      [&] {
        cf::drtune_x0_of(there, at::stack(states), grid, {0, 2, 5});
      },
      "steps", "of the grid");
}
