// Scaling of the loss: nothing but small gradients may show it.

#include <cmath>
#include <limits>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/train/checkpoint.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;

namespace {

auto trainer(const small::Options& options) {
  return small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, options);
}
small::Options scaled(const cf::LossScaleOptions& scale) {
  small::Options options = small::options();
  options.optimization.loss_scale = scale;
  return options;
}

}  // namespace

TEST_CASE("the factor grows after good steps and shrinks after a bad one") {
  cf::LossScale scale(
      cf::LossScaleOptions{.initial = 8, .growth = 4, .backoff = 0.25, .growth_interval = 2});
  CHECK(scale.factor() == 8);
  scale.update(true);
  CHECK(scale.factor() == 8);
  scale.update(true);
  CHECK(scale.factor() == 32);
  scale.update(true);
  scale.update(false);
  CHECK(scale.factor() == 8);
  // The bad step has ended the series.
  scale.update(true);
  CHECK(scale.factor() == 8);
  scale.update(true);
  CHECK(scale.factor() == 32);
}

TEST_CASE("without options the factor is 1 for ever") {
  cf::LossScale scale(std::nullopt);
  for (const bool finite : {true, false, true}) scale.update(finite);
  for (int i = 0; i < 3000; ++i) scale.update(true);
  CHECK(scale.factor() == 1);
  const cf::LossScale usual(cf::LossScaleOptions{});
  CHECK(usual.factor() == 65536);
}

TEST_CASE("a scale that was saved continues where it was") {
  const cf::LossScaleOptions options{.initial = 8, .growth_interval = 3};
  cf::LossScale first(options), second(options);
  for (const bool finite : {true, false, true, true}) first.update(finite);
  second.load(first.state());
  CHECK(second.factor() == 4);
  second.update(true);
  CHECK(second.factor() == 8);
}

TEST_CASE("options of the scale are checked") {
  const auto refuses = [](const cf::LossScaleOptions& options, const std::string& name) {
    check_error([&] { trainer(scaled(options)); }, "loss_scale." + name, "got");
  };
  refuses({.initial = 0}, "initial");
  refuses({.growth = 0.5}, "growth");
  refuses({.backoff = 1}, "backoff");
  refuses({.backoff = 0}, "backoff");
  refuses({.growth_interval = 0}, "growth_interval");
}

TEST_CASE("a scaled loss gives the update of a plain one") {
  auto plain = trainer(small::options()), with_scale = trainer(scaled({.initial = 1024}));
  const cf::EpochReport expected = plain.run_epoch(), got = with_scale.run_epoch();
  CHECK(small::distance(small::state_of(with_scale), small::state_of(plain)) < 1e-5);
  for (const char* name : {"loss", "gradient_norm"}) {
    CHECK(std::abs(*got.find(name) / *expected.find(name) - 1) < 1e-5);
  }
  CHECK(got.find("skipped_steps") == 0);
}

TEST_CASE("gradients are clipped at their own size, not at the scaled one") {
  small::Options options = small::options();
  options.optimization.optimizer = small::descent(0.1);
  options.optimization.max_gradient_norm = 1e-3;
  auto plain = trainer(options);
  options.optimization.loss_scale = cf::LossScaleOptions{.initial = 4096};
  auto with_scale = trainer(options);
  const small::State start = small::state_of(plain);
  plain.run_epoch();
  with_scale.run_epoch();
  CHECK(small::distance(small::state_of(with_scale), small::state_of(plain)) < 1e-6);
  CHECK_FALSE(small::same_bits(small::state_of(plain), start));
}

TEST_CASE("an overflow skips the step and lowers the scale, until steps are made") {
  // Overflows in float32, until it has been halved often enough.
  auto run = trainer(scaled({.initial = std::ldexp(1.0, 140), .backoff = std::ldexp(1.0, -16)}));
  const small::State start = small::state_of(run);
  const cf::EpochReport first = run.run_epoch();
  CHECK(first.find("skipped_steps") == 1);
  CHECK(run.gradient_steps() == 0);
  CHECK(small::same_bits(small::state_of(run), start));
  CHECK(run.loss_scale().factor() == std::ldexp(1.0, 124));
  for (int epoch = 0; epoch < 12; ++epoch) run.run_epoch();
  CHECK(run.gradient_steps() > 0);
  CHECK(small::is_finite(small::state_of(run)));
  CHECK_FALSE(small::same_bits(small::state_of(run), start));
}

TEST_CASE("the scale grows during a run and goes through a checkpoint") {
  const small::Options options = scaled({.initial = 16, .growth_interval = 3});
  auto first = trainer(options);
  first.run(4);
  CHECK(first.loss_scale().factor() == 32);
  const TemporaryDirectory directory;
  const auto path = cf::save_checkpoint(first, directory.path());
  auto second = trainer(options);
  cf::load_checkpoint(second, path);
  CHECK(second.loss_scale().factor() == 32);
  first.run(6);
  second.run(6);
  CHECK(first.loss_scale().factor() == 64);
  CHECK(second.loss_scale().factor() == 64);
  CHECK(small::same_bits(small::state_of(first), small::state_of(second)));
}
