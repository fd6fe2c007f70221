// Every algorithm runs where its tensors are, and gives there what it gives on the host.

#include <cstdint>
#include <utility>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/reward_gradient.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/window.hpp>
#include <contraflow/toy/mixture.hpp>
#include <contraflow/train/pretrain.hpp>

#include "device/compositions.hpp"
#include "device/devices.hpp"
#include "device/flows.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

template <class Solver>
Tensor solved(const at::Device& device) {
  cf::Generator generator = cf::seeded(5);
  const Tensor start = cf::normal({3, 2, 4}, generator, device);
  const Tensor matrix = cf::normal({4, 4}, generator, device);
  const auto velocity = [&](const Tensor& x, double sigma) {
    return at::matmul(x, matrix) * sigma;
  };
  return cf::integrate(Solver{}, velocity, start, cf::uniform_grid(6), generator).cpu();
}

/// Weights behind two epochs of two steps, on the host.
template <class P, class S, class R, class O, class... More>
small::State trained(P policy, const S& solver, const R& reward, const O& objective,
                     const More&... more) {
  small::Options o = small::options();
  o.optimization.optimizer = small::descent(0.05);
  o.optimization.micro_batch = 5;
  o.learning.gradient_steps = 2;
  if (reward.direction.dim() > 1) o.collection.sample_shape = reward.direction.sizes().vec();
  auto trainer = small::trainer(std::move(policy), solver, reward, objective, o, more...);
  trainer.run_epoch();
  trainer.run_epoch();
  CHECK(trainer.gradient_steps() == 4);
  small::State state = small::state_of(trainer);
  for (auto& [name, tensor] : state) tensor = tensor.cpu();
  return state;
}

/// Whether training has the same end everywhere, and an end other than its beginning.
template <class Train>
void check(Train&& train) {
  const small::State host = train(at::Device(at::kCPU)), other = train(devices::other());
  CHECK(small::is_finite(host));
  CHECK(small::distance(host, other) < 1e-4);
}

}  // namespace

TEMPLATE_TEST_CASE("solvers give the same everywhere", "", cf::Euler, cf::Heun, cf::Rk4,
                   cf::DormandPrince, cf::DpmSolver<1>, cf::DpmSolver<2>, cf::DpmSolver<3>,
                   cf::FlowSde, cf::DanceSde, cf::Cps, cf::Ddim, cf::Window<>) {
  const Tensor host = solved<TestType>(at::kCPU), other = solved<TestType>(devices::other());
  CHECK(laws::relative_distance(host, other) < 1e-5);
}

TEST_CASE("training gives the same everywhere") {
  const auto checked = [](const auto& solver, const auto& objective) {
    check([&](const at::Device& device) {
      return trained(flows::points(device), solver, small::reward(), objective,
                     cf::PromptRows(at::arange(3, device)));
    });
  };
  flows::each_composition(checked);
  SECTION("best of a group") { checked(cf::DpmSolver<1>{}, cf::BestOfGroup{}); }
}

TEST_CASE("adapters on a transformer are trained to the same everywhere") {
  cf::Generator generator = cf::seeded(1);
  const cf::LinearReward reward{cf::normal({2, 8, 8}, generator)};
  for (const bool recompute : {false, true}) {
    CAPTURE(recompute);
    check([&](const at::Device& device) {
      return trained(flows::images(device, recompute), cf::DpmSolver<2>{}, reward, cf::Nft{},
                     cf::PromptRows(flows::text_rows(device)));
    });
  }
}

TEST_CASE("data of the host pre-train a model anywhere") {
  check([](const at::Device& device) {
    cf::MlpVelocity model({.width = 16, .depth = 2, .seed = 1});
    model->to(device);
    cf::pretrain(model, cf::toy::ring(),
                 cf::Pretraining{.steps = 4, .batch = 16, .report_every = 2},
                 cf::Optimization{.optimizer = small::descent(0.05)});
    small::State state;
    for (const auto& item : model->named_parameters()) {
      state.emplace(item.key(), item.value().detach().cpu());
    }
    return state;
  });
}

TEST_CASE("the gradient of a reward is the same everywhere") {
  check([](const at::Device& device) {
    const auto reward = cf::differentiable([](const Tensor& x0) { return -x0.square().mean(1); });
    small::Options o = small::options();
    o.collection.grid = cf::uniform_grid(5);
    o.optimization.optimizer = small::descent(0.05);
    auto trainer = small::trainer(flows::points(device), cf::Euler{}, reward,
                                  cf::Refl{.last_steps = 3} + 0.1 * cf::DraftK<>{.last_steps = 2},
                                  o, cf::PromptRows(at::arange(3, device)));
    trainer.run_epoch();
    trainer.run_epoch();
    CHECK(trainer.gradient_steps() == 2);
    small::State state = small::state_of(trainer);
    for (auto& [name, tensor] : state) tensor = tensor.cpu();
    return state;
  });
}
