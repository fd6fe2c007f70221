// The forward process and its algebra.

#include <limits>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/path/rectified_flow.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

struct Point {
  Tensor x0, eps, t, x_t, v;
};

Point point(at::IntArrayRef shape) {
  Point p{laws::doubles(shape, 1), laws::doubles(shape, 2), {}, {}, {}};
  p.t = at::linspace(0.05, 0.95, shape[0], at::kDouble);
  p.x_t = cf::interpolate(p.x0, p.eps, p.t);
  p.v = cf::velocity_target(p.x0, p.eps);
  return p;
}

}  // namespace

TEST_CASE("the path runs from data at 0 to noise at 1") {
  const Tensor x0 = laws::floats({4, 3}, 1), eps = laws::floats({4, 3}, 2);
  CHECK(at::equal(cf::interpolate(x0, eps, at::zeros({4})), x0));
  CHECK(at::equal(cf::interpolate(x0, eps, at::ones({4})), eps));
  const Tensor half = cf::interpolate(x0, eps, at::full({4}, 0.5));
  CHECK(relative_distance(half, (x0 + eps) / 2) < 1e-6);
}

TEST_CASE("each sample has its own time") {
  const Tensor t = at::tensor({0.0, 0.25, 1.0}, at::kDouble);
  const Tensor x_t =
      cf::interpolate(at::ones({3, 2, 2}, at::kDouble), at::full({3, 2, 2}, 5, at::kDouble), t);
  CHECK(relative_distance(x_t.flatten(1).select(1, 0), 1 + 4 * t) < 1e-15);
}

TEST_CASE("the velocity is the derivative of the path") {
  const Point p = point({5, 4});
  const Tensor ahead = cf::interpolate(p.x0, p.eps, p.t + 1e-6);
  CHECK(relative_distance((ahead - p.x_t) / 1e-6, p.v) < 1e-8);
}

TEST_CASE("predictions convert into each other and back") {
  for (const auto& shape :
       {std::vector<std::int64_t>{6, 3}, std::vector<std::int64_t>{3, 2, 4, 5}}) {
    const Point p = point(shape);
    CHECK(relative_distance(cf::x0_from_velocity(p.x_t, p.v, p.t), p.x0) < 1e-14);
    CHECK(relative_distance(cf::eps_from_velocity(p.x_t, p.v, p.t), p.eps) < 1e-14);
    CHECK(relative_distance(cf::velocity_from_x0(p.x_t, p.x0, p.t), p.v) < 1e-13);
    CHECK(relative_distance(cf::velocity_from_eps(p.x_t, p.eps, p.t), p.v) < 1e-13);
  }
}

TEST_CASE("conversions stay finite where a prediction says nothing") {
  const Tensor x = laws::floats({2, 3}, 1), y = laws::floats({2, 3}, 2);
  CHECK(cf::velocity_from_x0(x, y, at::zeros({2})).isfinite().all().item<bool>());
  CHECK(cf::velocity_from_eps(x, y, at::ones({2})).isfinite().all().item<bool>());
}

TEST_CASE("bad input of the path is refused") {
  const Tensor x0 = at::zeros({3, 2}), t = at::full({3}, 0.5);
  const auto path = [](const Tensor& a, const Tensor& b, const Tensor& time) {
    return [=] { cf::interpolate(a, b, time); };
  };
  check_error(path(at::zeros({0, 2}), at::zeros({0, 2}), at::zeros({0})), "x0", "non-empty");
  check_error(path(at::zeros({3, 2}, at::kLong), x0, t), "x0", "floating-point");
  check_error(path(x0, at::zeros({3, 3}), t), "eps", "shape [3, 2], got [3, 3]");
  check_error(path(x0, at::zeros({3, 2}, at::kDouble), t), "eps", "Float");
  check_error(path(x0, x0, at::zeros({2})), "t", "[3]");
  check_error(path(x0, x0, at::full({3}, 1.5)), "t", "[0, 1], got 1.5");
  check_error(path(x0, x0, at::tensor({0.1F, -0.5F, 0.2F})), "t", "[0, 1], got -0.5");
  check_error(path(x0, x0, at::full({3}, std::nan(""))), "t", "nan");
}
