// The host does not wait for the device within the loops of an epoch: waits are counted.

#include <cstdint>
#include <string>
#include <utility>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/reward_gradient.hpp>
#include <contraflow/solver/dpm_solver.hpp>
#include <contraflow/solver/window.hpp>

#include "device/compositions.hpp"
#include "device/devices.hpp"
#include "device/flows.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;
using devices::Counts;

namespace {

/// What an epoch is made of.
struct Size {
  int steps = 4;                    ///< of the grid
  std::int64_t group = 4;           ///< samples a prompt
  std::int64_t rollout_batch = 0;   ///< samples generated at a time
  std::int64_t micro_batch = 0;     ///< of the update
  std::int64_t gradient_steps = 1;  ///< of an epoch
};

/// Waits of the second epoch.
template <class P, class S, class R, class O, class... More>
Counts waits_of_epoch(const Size& size, P policy, const S& solver, const R& reward,
                      const O& objective, const More&... more) {
  small::Options o = small::options();
  o.collection.grid = cf::uniform_grid(size.steps);
  o.collection.group_size = size.group;
  o.collection.rollout_batch = size.rollout_batch;
  if (reward.direction.dim() > 1) o.collection.sample_shape = reward.direction.sizes().vec();
  o.optimization.micro_batch = size.micro_batch;
  o.learning.gradient_steps = size.gradient_steps;
  auto trainer = small::trainer(std::move(policy), solver, reward, objective, o, more...);
  trainer.run_epoch();
  const Counts counts = devices::waits_of([&] { trainer.run_epoch(); });
  CHECK(trainer.gradient_steps() == 2 * size.gradient_steps);
  return counts;
}

/// A gradient step is read once, and the scores of what is generated at a time; nothing else adds
/// to what an epoch waits for.
template <class MakePolicy, class... Parts>
void check(MakePolicy&& policy, const Parts&... parts) {
  const auto waits = [&](const Size& size) { return waits_of_epoch(size, policy(), parts...); };
  const Counts once = waits({});
  INFO(devices::text_of(once));
  CHECK(devices::sum_of(once) <= 8);
  CHECK(devices::text_of(waits({.steps = 9})) == devices::text_of(once));
  CHECK(devices::text_of(waits({.group = 6})) == devices::text_of(once));
  CHECK(devices::text_of(waits({.micro_batch = 2})) == devices::text_of(once));
  CHECK(devices::sum_of(waits({.gradient_steps = 3})) == devices::sum_of(once) + 2);
  CHECK(devices::sum_of(waits({.rollout_batch = 4})) == devices::sum_of(once) + 2);
}

template <class Solver>
Counts waits_of_integration(const Solver& solver) {
  const Tensor start = at::ones({3, 2}, devices::other());
  const auto velocity = [](const Tensor& x, double sigma) { return x * sigma; };
  return devices::waits_of([&] {
    cf::Generator generator = cf::seeded(0);
    cf::integrate(solver, velocity, start, cf::uniform_grid(5), generator);
  });
}

}  // namespace

TEST_CASE("what the host waits for is seen") {
  const at::Device device = devices::other();
  const Tensor x = at::ones({3});
  const auto count = [](auto&& work) { return devices::sum_of(devices::waits_of(work)); };
  CHECK(count([&] { cf::on_device(x, device) * 2 + 1; }) == 0);
  const Tensor y = cf::on_device(x, device) * 2 + 1;
  CHECK(y.device() == device);
  CHECK(count([&] { CHECK(y.sum().item<float>() == 9); }) == 1);
  CHECK(count([&] { CHECK(y.cpu().sum().item<float>() == 9); }) == 1);
  CHECK(count([&] { x.to(device); }) == 1);
  CHECK(cf::on_device(at::ones({1}).expand({3}), device).sum().item<float>() == 3);
  CHECK(count([&] { CHECK(y.nonzero().numel() == 3); }) >= 1);
  CHECK(count([&] { CHECK(y.index({y > 0}).numel() == 3); }) >= 1);
  CHECK_THROWS(y + x);
}

TEST_CASE("solvers do not make the host wait") {
  const auto is_free = [](const auto& solver) {
    return devices::sum_of(waits_of_integration(solver)) == 0;
  };
  CHECK(is_free(cf::Euler{}));
  CHECK(is_free(cf::Heun{}));
  CHECK(is_free(cf::Rk4{}));
  CHECK(is_free(cf::DpmSolver<1>{}));
  CHECK(is_free(cf::DpmSolver<2>{}));
  CHECK(is_free(cf::DpmSolver<3>{}));
  CHECK(is_free(cf::FlowSde{}));
  CHECK(is_free(cf::DanceSde{}));
  CHECK(is_free(cf::Cps{}));
  CHECK(is_free(cf::Ddim{.eta = 0.5}));
  CHECK(is_free(cf::Window<cf::FlowSde, cf::DpmSolver<2>>{}));
}

TEST_CASE("an epoch waits no more often for more steps, samples and micro-batches") {
  const auto points = [] { return flows::points(devices::other()); };
  const cf::PromptRows prompts(at::arange(3, devices::other()));
  const auto reward = small::reward();
  const auto checked = [&](const auto& solver, const auto& objective) {
    check(points, solver, reward, objective, prompts);
  };
  flows::each_composition(checked);
  SECTION("best of a group") { checked(cf::DpmSolver<1>{}, cf::BestOfGroup{}); }
}

TEST_CASE("nor does one of adapters on a transformer") {
  const at::Device device = devices::other();
  cf::Generator generator = cf::seeded(1);
  const cf::LinearReward reward{cf::normal({2, 8, 8}, generator)};
  const cf::PromptRows prompts(flows::text_rows(device));
  const auto objective = cf::Nft{} + 0.1 * cf::VelocityKl{};
  SECTION("activations kept") {
    check([&] { return flows::images(device); }, cf::DpmSolver<2>{}, reward, objective, prompts);
  }
  SECTION("activations computed again") {
    check([&] { return flows::images(device, true); }, cf::DpmSolver<2>{}, reward, objective,
          prompts);
  }
  SECTION("prompts kept on the host") {
    check([&] { return flows::images(device); }, cf::DpmSolver<2>{}, reward, objective,
          cf::PromptRows(flows::text_rows(at::kCPU)));
  }
}

TEST_CASE("nor does one on the gradient of a reward") {
  const auto reward = cf::differentiable([](const Tensor& x0) { return -x0.square().mean(1); });
  const auto waits = [&](std::int64_t micro_batch) {
    small::Options o = small::options();
    o.optimization.micro_batch = micro_batch;
    auto trainer = small::trainer(flows::points(devices::other()), cf::Euler{}, reward,
                                  cf::DraftK<>{.last_steps = 2}, o,
                                  cf::PromptRows(at::arange(3, devices::other())));
    trainer.run_epoch();
    return devices::text_of(devices::waits_of([&] { trainer.run_epoch(); }));
  };
  CHECK(waits(2) == waits(0));
}
