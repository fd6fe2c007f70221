// Errors, tensors and conditions.

#include <limits>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/condition.hpp>
#include <contraflow/core/tensor.hpp>

#include "laws/compare.hpp"
#include "laws/condition.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;

TEST_CASE("an error names the argument, what was expected and what came") {
  const cf::Error error("beta", "above 0", "-1");
  CHECK(std::string(error.what()) == "beta: expected above 0, got -1");
  CHECK(error.argument() == "beta");
  CHECK(error.expected() == "above 0");
  CHECK(error.got() == "-1");
  CHECK_NOTHROW(cf::expects(true, "beta", "above 0", 1));
  check_error([] { cf::expects(false, "steps", "at least 1", 0); }, "steps", "got 0");
}

TEST_CASE("narrow numbers are widened and wide ones left alone") {
  CHECK(cf::wide(at::ones({2}, at::kHalf)).scalar_type() == at::kFloat);
  CHECK(cf::wide(at::ones({2}, at::kBFloat16)).scalar_type() == at::kFloat);
  CHECK(cf::wide(at::ones({2}, at::kLong)).scalar_type() == at::kFloat);
  const Tensor floats = at::ones({2}), doubles = at::ones({2}, at::kDouble);
  CHECK(cf::wide(floats).is_same(floats));
  CHECK(cf::wide(doubles).is_same(doubles));
}

TEST_CASE("means over all but the batch") {
  const Tensor x = at::arange(12, at::kFloat).view({2, 3, 2});
  CHECK(at::equal(cf::mean_per_sample(x), at::tensor({2.5F, 8.5F})));
  // A sum of a thousand halves loses everything in half precision.
  const Tensor narrow = at::full({1, 4096}, 0.1, at::kHalf);
  CHECK(std::abs(cf::mean_per_sample(narrow).item<double>() - 0.1) < 1e-4);
}

TEST_CASE("numbers a sample broadcast over samples of any rank") {
  const Tensor values = at::tensor({1.0F, 2.0F});
  CHECK(cf::per_sample(values, at::zeros({2, 5})).sizes() == at::IntArrayRef({2, 1}));
  CHECK(cf::per_sample(values, at::zeros({2, 5, 6, 7})).sizes() == at::IntArrayRef({2, 1, 1, 1}));
}

TEST_CASE("what is no batch of samples is refused by name") {
  const auto samples = [](const Tensor& x) { return [=] { cf::expects_samples(x, "x0"); }; };
  check_error(samples(Tensor()), "x0", "got nothing");
  check_error(samples(at::zeros({3})), "x0", "[3]");
  check_error(samples(at::zeros({0, 3})), "x0", "non-empty");
  check_error(samples(at::zeros({3, 2}, at::kInt)), "x0", "floating-point tensor, got Int");
  CHECK_NOTHROW(samples(at::zeros({1, 1}, at::kHalf))());

  const Tensor like = at::zeros({3, 2});
  check_error(
      [&] {
        cf::expects_like(at::zeros({2, 3}), like, "eps");
      },
      "eps", "shape [3, 2], got [2, 3]");
  check_error([&] { cf::expects_like(Tensor(), like, "eps"); }, "eps", "got nothing");
  check_error(
      [&] {
        cf::expects_like(at::zeros({3, 2}, at::kMeta), like, "eps");
      },
      "eps", "a tensor on cpu, got meta");
  check_error([&] { cf::expects_per_sample(at::zeros({2}), like, "t"); }, "t",
              "shape [3], got [2]");
  check_error([&] { cf::expects_per_sample(at::zeros({3, 1}), like, "t"); }, "t", "[3, 1]");
  check_error([&] { cf::expects_per_sample(Tensor(), like, "t"); }, "t", "got nothing");
  check_error([&] { cf::expects_per_sample(at::zeros({3}, at::kMeta), like, "t"); }, "t", "meta");
}

TEST_CASE("conditions of the library keep the laws of conditions") {
  laws::condition(at::arange(12, at::kFloat).view({4, 3}));
  laws::condition(at::arange(5, at::kLong));
  CHECK(cf::batch_size(cf::Unconditional{}) == -1);
  static_assert(cf::Condition<cf::Unconditional>);
  static_assert(!cf::Condition<int>);
}

TEST_CASE("a condition belongs to its samples") {
  const Tensor x = at::zeros({3, 2});
  CHECK_NOTHROW(cf::expects_condition_of(at::zeros({3, 7}), x));
  CHECK_NOTHROW(cf::expects_condition_of(cf::Unconditional{}, x));
  check_error([&] { cf::expects_condition_of(at::zeros({2, 7}), x); }, "condition", "got 2");
}
