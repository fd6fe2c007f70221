// Grids, schedules and training times.

#include <cmath>
#include <limits>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <contraflow/time/schedule.hpp>
#include <contraflow/time/training_times.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/training_times.hpp"

namespace cf = contraflow;
using Catch::Matchers::WithinAbs;
using cf::Tensor;
using laws::check_error;

TEST_CASE("grids run strictly down from 1 to 0") {
  for (const int steps : {1, 2, 5, 40}) {
    for (const auto& grid :
         {cf::uniform_grid(steps), cf::sd3_grid(steps), cf::sd3_grid(steps, {.shift = 1})}) {
      CHECK(grid.steps() == static_cast<std::size_t>(steps));
      CHECK(grid.sigmas().size() == grid.steps() + 1);
      CHECK(grid.sigmas().front() == 1);
      CHECK(grid.sigmas().back() == 0);
      for (std::size_t i = 0; i < grid.steps(); ++i) {
        CHECK(grid.step(i).from > grid.step(i).to);
        if (i > 0) CHECK(grid.step(i).from == grid.step(i - 1).to);
      }
      CHECK(grid.step(0).is_first());
      CHECK(grid.step(grid.steps() - 1).is_last());
    }
  }
}

TEST_CASE("the uniform grid has equal steps") {
  const auto grid = cf::uniform_grid(8);
  for (std::size_t i = 0; i < 8; ++i)
    CHECK_THAT(grid.sigmas()[i], WithinAbs(1 - double(i) / 8, 1e-15));
}

// Worked by hand from s u / (1 + (s - 1) u) with s = 3: the table ends at 0.003 / 1.002, and that
// shifted again is the last sigma that is not 0.
TEST_CASE("the grid of Stable Diffusion 3 shifts its last sigma twice") {
  const auto grid = cf::sd3_grid(2);
  const double last = 0.003 / 1.002;
  CHECK_THAT(grid.sigmas()[1], WithinAbs(3 * last / (1 + 2 * last), 1e-15));
  CHECK_THAT(cf::sd3_grid(40).sigmas()[39], WithinAbs(0.0089286, 1e-7));
  CHECK_THAT(cf::sd3_grid(3).sigmas()[1], WithinAbs(3 * (1 + last) / 2 / (1 + (1 + last)), 1e-15));
}

TEST_CASE("a grid that is none is refused") {
  const auto grid = [](std::vector<double> sigmas) { return [=] { cf::TimeGrid give(sigmas); }; };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  check_error(grid({}), "sigmas", "at least two");
  check_error(grid({1}), "sigmas", "at least two");
  check_error(grid({1.5, 0}), "sigmas", "[0, 1], got 1.5");
  check_error(grid({1, -0.25}), "sigmas", "[0, 1], got -0.25");
  check_error(grid({1, 0.5, 0.5, 0}), "sigmas", "0.5 after 0.5");
  check_error(grid({0, 0.5, 1}), "sigmas", "strictly decreasing");
  check_error(grid({nan, 0}), "sigmas", "nan");
  check_error(grid({1, nan, 0}), "sigmas", "nan");
  check_error(grid({1, 0.5, nan}), "sigmas", "nan");
  check_error([] { cf::uniform_grid(0); }, "steps", "at least 1, got 0");
  check_error([] { cf::sd3_grid(-3); }, "steps", "at least 1, got -3");
  check_error([] { cf::sd3_grid(4, {.shift = 0}); }, "shift", "above 0");
  check_error([] { cf::sd3_grid(4, {.num_train_timesteps = 1}); }, "num_train_timesteps",
              "above 1");
}

TEST_CASE("schedules are the published ones") {
  CHECK(cf::Constant{0.25}(1000) == 0.25);
  const cf::Ramp ramp{.rate = 0.001, .max = 0.5};
  CHECK(ramp(0) == 0);
  CHECK_THAT(ramp(100), WithinAbs(0.1, 1e-15));
  CHECK(ramp(10000) == 0.5);
  const cf::Ramp late{.rate = 0.0075, .max = 0.999, .flat = 75};
  CHECK(late(74) == 0);
  CHECK(late(75) == 0);
  CHECK_THAT(late(76), WithinAbs(0.0075, 1e-15));
  CHECK(late(1000) == 0.999);
  const cf::WarmingUp warming{.max = 0.9};
  CHECK_THAT(warming(0), WithinAbs(0.1, 1e-15));
  CHECK(warming(1000000) == 0.9);
}

// From a standing start 1; after `steps` steps 1/sqrt(2), after three times as many 1/2.
TEST_CASE("an inverse root falls to a half in three times the steps it is given") {
  for (const double steps : {1.0, 20.0, 500.0}) {
    const cf::InverseRoot factor{.steps = steps};
    const auto at = [&](double of_steps) { return factor(std::int64_t(of_steps * steps)); };
    CHECK(at(0) == 1);
    CHECK_THAT(at(1), WithinAbs(std::sqrt(0.5), 1e-15));
    CHECK_THAT(at(3), WithinAbs(0.5, 1e-15));
    CHECK_THAT(at(99), WithinAbs(0.1, 1e-15));
    for (std::int64_t step = 0; step < 50; ++step) CHECK(factor(step + 1) < factor(step));
  }
  CHECK(cf::InverseRoot{}(60) == cf::InverseRoot{.steps = 20}(60));
}

TEST_CASE("an inverse root of no steps stays 1") {
  for (const double steps : {0.0, -3.0}) {
    CHECK(cf::InverseRoot{.steps = steps}(0) == 1);
    CHECK(cf::InverseRoot{.steps = steps}(1000) == 1);
  }
}

namespace {
// A training time of the user's.
struct AlwaysHalf {
  Tensor operator()(std::int64_t units, const cf::TimeGrid&, cf::Generator&) const {
    return at::full({units, 1}, 0.5);
  }
};
}  // namespace

TEST_CASE("a cosine falls from 1 over its middle to what is left, and stays there") {
  const cf::Cosine whole{.steps = 200};
  CHECK(whole(0) == 1);
  CHECK_THAT(whole(100), WithinAbs(0.5, 1e-12));
  CHECK_THAT(whole(50), WithinAbs((1 + std::sqrt(0.5)) / 2, 1e-12));
  CHECK_THAT(whole(200), WithinAbs(0, 1e-12));
  CHECK(whole(1000) == 0);
  const cf::Cosine partial{.steps = 200, .last = 0.2};
  CHECK_THAT(partial(100), WithinAbs(0.6, 1e-12));
  CHECK(partial(1000) == 0.2);
}

TEST_CASE("a cosine rises in a straight line first") {
  const cf::Cosine factor{.steps = 1e9, .warm_up = 50};
  CHECK_THAT(factor(0), WithinAbs(0.02, 1e-9));
  CHECK_THAT(factor(24), WithinAbs(0.5, 1e-9));
  CHECK_THAT(factor(49), WithinAbs(1, 1e-9));
  CHECK_THAT(factor(500), WithinAbs(1, 1e-9));
}

TEST_CASE("training times keep their laws") {
  laws::training_times(cf::GridTimes{}, 9);
  laws::training_times(cf::GridTimes{.fraction = 1}, 10);
  laws::training_times(cf::GridTimes{.fraction = 0.25}, 2);
  laws::training_times(cf::GridTimes{.fraction = 0.01}, 1);
  laws::training_times(cf::GridTimes{.per_sample = 3}, 3);
  laws::training_times(cf::UniformTimes{}, 1);
  laws::training_times(cf::UniformTimes{.per_sample = 4}, 4);
  laws::training_times(cf::LogitNormalTimes{}, 1);
  laws::training_times(cf::LogitNormalTimes{.mean = -1, .std = 2, .per_sample = 3}, 3);
  laws::training_times(cf::StratifiedTimes{}, 1);
  laws::training_times(cf::StratifiedTimes{.per_sample = 5}, 5);
  laws::training_times(AlwaysHalf{}, 1);
}

TEST_CASE("a grid of its own takes the place of the one that is given") {
  cf::Generator one = cf::seeded(0), two = cf::seeded(0);
  const cf::GridTimes own{.fraction = 0.5, .grid = cf::uniform_grid(20)};
  CHECK(laws::same_bits(own(5, cf::sd3_grid(4), one),
                        cf::GridTimes{.fraction = 0.5}(5, cf::uniform_grid(20), two)));
}

TEST_CASE("times of the grid are its sigmas but the last, no sample twice the same") {
  const auto grid = cf::sd3_grid(6);
  cf::Generator generator = cf::seeded(0);
  const Tensor all = std::get<0>(cf::GridTimes{.fraction = 1}(50, grid, generator).sort(1, true));
  const Tensor sigmas =
      at::tensor(std::vector<double>(grid.sigmas().begin(), grid.sigmas().end() - 1), at::kFloat);
  CHECK(at::equal(all, sigmas.expand({50, 6})));
  // Each order of a sample is as likely as another: every sigma comes first about equally often.
  const Tensor first = cf::GridTimes{.per_sample = 1}(6000, grid, generator);
  for (int i = 0; i < 6; ++i) {
    CHECK(std::abs((first == sigmas[i]).sum().item<int>() - 1000) < 150);
  }
}

TEST_CASE("a grid of fractions does not lose a step to rounding") {
  cf::Generator generator = cf::seeded(0);
  const auto count = [&](double fraction, int steps) {
    return cf::GridTimes{.fraction = fraction}(2, cf::uniform_grid(steps), generator).size(1);
  };
  CHECK(count(0.9, 10) == 9);
  CHECK(count(0.7, 10) == 7);
  CHECK(count(0.29, 100) == 29);
  CHECK(count(0.99, 10) == 9);
}

TEST_CASE("random times have the distribution they should") {
  cf::Generator generator = cf::seeded(0);
  const auto grid = cf::uniform_grid(2);
  const auto mean = [](const Tensor& t) { return t.mean(at::kDouble).item<double>(); };
  CHECK_THAT(mean(cf::UniformTimes{}(20000, grid, generator)), WithinAbs(0.5, 0.01));
  const Tensor t = cf::LogitNormalTimes{.mean = 0.5, .std = 2}(20000, grid, generator);
  CHECK_THAT(mean(t.logit()), WithinAbs(0.5, 0.05));
  CHECK_THAT(t.logit().std().item<double>(), WithinAbs(2, 0.05));
}

TEST_CASE("stratified times fill their strata") {
  cf::Generator generator = cf::seeded(0);
  const Tensor t = cf::StratifiedTimes{.per_sample = 4}(10, cf::uniform_grid(2), generator);
  for (int k = 0; k < 4; ++k) {
    const Tensor cell = std::get<0>(((t.select(1, k) * 4 - k) * 10).floor().sort());
    CHECK(at::equal(cell, at::arange(10, at::kFloat)));
  }
  CHECK_FALSE(at::equal(t.select(1, 0).argsort(), at::arange(10)));
}

TEST_CASE("training times out of range are refused") {
  cf::Generator generator = cf::seeded(0);
  const auto grid = cf::uniform_grid(4);
  const auto draw = [&](const auto& times) { return [&, times] { times(3, grid, generator); }; };
  check_error(draw(cf::GridTimes{.fraction = 0}), "fraction", "(0, 1]");
  check_error(draw(cf::GridTimes{.fraction = 1.1}), "fraction", "(0, 1]");
  check_error(draw(cf::GridTimes{.per_sample = 5}), "per_sample", "number of steps");
  check_error(draw(cf::UniformTimes{.per_sample = 0}), "per_sample", "at least 1");
  check_error(draw(cf::LogitNormalTimes{.std = 0}), "std", "above 0");
  check_error(draw(cf::LogitNormalTimes{.per_sample = 0}), "per_sample", "at least 1");
  check_error(draw(cf::StratifiedTimes{.per_sample = -1}), "per_sample", "at least 1");
}
