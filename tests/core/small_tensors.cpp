// Lists of small tensors against LibTorch's operations.

#include <cmath>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/core/small_tensors.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

std::vector<Tensor> list(std::uint64_t seed) {
  return {laws::floats({3, 5}, seed), laws::floats({17}, seed + 1), laws::floats({1}, seed + 2)};
}
Tensor together(const std::vector<Tensor>& all) {
  std::vector<Tensor> flat;
  for (const Tensor& x : all) flat.push_back(x.to(at::kDouble).flatten());
  return at::cat(flat);
}

}  // namespace

TEST_CASE("norms, distances and averages of small tensors are those of their numbers") {
  const std::vector<Tensor> a = list(1), b = list(10);
  const double norm = together(a).norm().item<double>();
  const double distance = (together(a) - together(b)).norm().item<double>();
  CHECK(std::abs(std::sqrt(cf::squared_norm(a)) - norm) < 1e-6);
  CHECK(std::abs(std::sqrt(cf::squared_distance(a, b)) - distance) < 1e-6);
  for (const double weight : {0.0, 0.3, 1.0}) {
    const std::vector<Tensor> mixed = list(1);
    cf::interpolate_small(mixed, b, weight);
    const Tensor expected = together(a) + weight * (together(b) - together(a));
    CHECK(laws::relative_distance(together(mixed), expected) < 1e-6);
    if (weight == 0) CHECK(together(mixed).equal(together(a)));
    if (weight == 1) CHECK(together(mixed).equal(together(b)));
  }
}

TEST_CASE("small tensors are float32 on the CPU without gaps, and not many") {
  CHECK(cf::are_small(list(1)));
  CHECK(cf::are_small({}));
  CHECK_FALSE(cf::are_small({laws::doubles({3})}));
  CHECK_FALSE(cf::are_small({laws::floats({3, 4}).t()}));
  CHECK_FALSE(cf::are_small({at::zeros({1 << 17}), at::zeros({(1 << 17) + 1})}));
}

TEST_CASE("small tensors of other shapes are refused") {
  const std::vector<Tensor> a{at::zeros({2})}, b{at::zeros({3})};
  laws::check_error([&] { cf::squared_distance(a, b); }, "b", "shape [2]");
  laws::check_error([&] { cf::interpolate_small(a, b, 0.5); }, "b", "shape [2]");
}
