// The toy tasks: what their data are and what is rewarded.

#include <cmath>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/toy/rewards.hpp>
#include <contraflow/toy/tasks.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;

namespace {

Tensor draw(const cf::toy::Task& task, std::int64_t count, std::uint64_t seed = 1) {
  cf::Generator generator = cf::seeded(seed);
  return task.data(count, generator);
}

std::vector<cf::toy::Task> all_tasks() {
  return {cf::toy::ring_task(), cf::toy::checkerboard(), cf::toy::two_moons_to_one(),
          cf::toy::ladder(2),   cf::toy::ladder(8),      cf::toy::ladder(32)};
}

}  // namespace

TEST_CASE("tasks draw data of their dimension and reward them one by one") {
  for (const auto& task : all_tasks()) {
    INFO(task.name);
    const Tensor x0 = draw(task, 4000);
    CHECK(x0.sizes() == at::IntArrayRef({4000, task.dimension}));
    CHECK(laws::same_bits(x0, draw(task, 4000)));
    CHECK_FALSE(at::equal(x0, draw(task, 4000, 2)));
    CHECK(task.axes.sizes() == at::IntArrayRef({task.dimension, 2}));
    CHECK(x0.abs().max().item<double>() < task.limit);
    laws::reward(task, x0.narrow(0, 0, 50));
    const Tensor mode = task.mode_of(x0);
    CHECK(mode.min().item<int>() == -1);
    CHECK(mode.max().item<int>() == std::ssize(task.rewarded) - 1);
    // Every rewarded mode is met about equally often.
    double total = 0;
    for (const double share : task.shares(x0)) {
      CHECK(std::abs(share * double(task.rewarded.size()) - 1) < 0.3);
      total += share;
    }
    CHECK(std::abs(total - 1) < 1e-12);
  }
}

TEST_CASE("about a quarter of the data is rewarded, half of the moons") {
  const auto rewarded = [](const cf::toy::Task& task) {
    return task(draw(task, 20000)).mean().item<double>();
  };
  CHECK(std::abs(rewarded(cf::toy::ring_task()) - 0.25) < 0.02);
  CHECK(std::abs(rewarded(cf::toy::checkerboard()) - 0.25) < 0.02);
  CHECK(std::abs(rewarded(cf::toy::ladder(32)) - 0.25) < 0.02);
  CHECK(std::abs(rewarded(cf::toy::two_moons_to_one()) - 0.5) < 0.05);
}

TEST_CASE("the first rung of the ladder is the ring") {
  const Tensor x0 = laws::floats({500, 2}) * 2;
  const cf::toy::InModes ring{{1, 4}};
  CHECK(at::equal(cf::toy::ring_task()(x0), ring(x0)));
  CHECK(at::equal(cf::toy::ladder(2)(x0), ring(x0)));
  CHECK(cf::toy::ladder_mixture(2).std() == cf::toy::ring().std());
}

TEST_CASE("every rung of the ladder has eight modes of one norm, apart from each other") {
  for (const std::int64_t dimension : {2, 8, 32, 128}) {
    const Tensor means = cf::toy::ladder_mixture(dimension).means();
    CHECK(means.sizes() == at::IntArrayRef({8, dimension}));
    const Tensor norm = means.norm(2, 1) / std::sqrt(double(dimension) / 2);
    CHECK(laws::relative_distance(norm, at::full({8}, 2)) < 1e-5);
    const Tensor apart = at::cdist(means, means) + 1e6 * at::eye(8);
    CHECK(apart.min().item<double>() / std::sqrt(double(dimension) / 2) > 1);
  }
}

TEST_CASE("samples without reward have no shares") {
  for (const double share : cf::toy::ring_task().shares(at::zeros({5, 2}))) CHECK(share == 0);
}

TEST_CASE("the ladder stands on even dimensions only") {
  check_error([] { cf::toy::ladder(3); }, "dimension", "even");
  check_error([] { cf::toy::ladder(0); }, "dimension", "even");
  check_error([] { cf::toy::ladder(-2); }, "dimension", "even");
}
