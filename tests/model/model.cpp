// Models, conversions of other conventions, and guidance.

#include "laws/model.hpp"

#include <catch2/catch_test_macros.hpp>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <contraflow/model/conversions.hpp>
#include <contraflow/model/guidance.hpp>
#include <contraflow/model/mlp.hpp>
#include <contraflow/model/module_velocity.hpp>
#include <contraflow/path/rectified_flow.hpp>
#include <contraflow/toy/mixture.hpp>

#include "archetypes/models.hpp"
#include "laws/condition.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

auto sequential_model() {
  torch::nn::Sequential net(torch::nn::Linear(4, 16), torch::nn::Linear(16, 3));
  return cf::ModuleVelocity(net, [](auto& module, const Tensor& x, const Tensor& t) {
    return module->forward(at::cat({x, t.unsqueeze(1)}, 1));
  });
}

// The exact velocity of a mixture, and the same as other conventions would have it.
const cf::toy::Mixture& mixture() {
  static const cf::toy::Mixture two(at::tensor({-1.0, 0.5, 1.5, -0.5}, at::kDouble).view({2, 2}),
                                    0.4);
  return two;
}
Tensor exact(const Tensor& x, const Tensor& t) { return mixture().velocity(x, t); }
Tensor predict_x0(const Tensor& x, const Tensor& t) { return x - t.unsqueeze(1) * exact(x, t); }
Tensor predict_eps(const Tensor& x, const Tensor& t) {
  return x + (1 - t.unsqueeze(1)) * exact(x, t);
}

struct Points {
  Tensor x = laws::doubles({9, 2});
  Tensor t = at::linspace(0.05, 0.95, 9, at::kDouble);
};

template <class M>
double off(M&& model) {
  const Points at;
  return relative_distance(cf::velocity_of(model, at.x, at.t, cf::Unconditional{}),
                           exact(at.x, at.t));
}

}  // namespace

TEST_CASE("models of the library and of users keep the laws") {
  const Tensor x = laws::floats({6, 3});
  cf::MlpVelocity mlp({.dimension = 3, .width = 16, .depth = 2});
  laws::flow_model(mlp, x);
  laws::trainable_model(mlp, x);

  cf::MlpVelocity labelled({.dimension = 3, .width = 16, .depth = 2, .classes = 4});
  const Tensor labels = at::tensor({0, 3, 1, 1, 2, 0}, at::kLong);
  laws::flow_model(labelled, x, labels);
  laws::trainable_model(labelled, x, labels);

  auto sequential = sequential_model();
  laws::flow_model(sequential, x);
  laws::trainable_model(sequential, x);

  archetypes::PlainModel plain(3);
  laws::flow_model(plain, x);
  laws::trainable_model(plain, x);

  archetypes::CaptionedModel captioned;
  const archetypes::Caption caption{{1, 2, 3, 4, 5, 6}, labels};
  laws::flow_model(captioned, x.narrow(1, 0, 2), caption);
  laws::trainable_model(captioned, x.narrow(1, 0, 2), caption);
  laws::condition(caption, [](const auto& a, const auto& b) { return a == b; });

  const auto lambda = [](const Tensor& state, const Tensor& t) { return state * t.unsqueeze(1); };
  laws::flow_model(lambda, x);

  auto adapted = cf::PredictsX0(cf::ScaledTime(cf::clone_of(mlp)));
  laws::flow_model(adapted, x);
  laws::trainable_model(adapted, x);
  auto guided = cf::Guided(cf::clone_of(labelled), at::tensor({0}, at::kLong), 3.0);
  laws::flow_model(guided, x, labels);
  laws::trainable_model(guided, x, labels);
}

TEST_CASE("the weights of an MLP come from its seed") {
  const auto weights = [](std::uint64_t seed) {
    return cf::MlpVelocity({.width = 8, .seed = seed})->parameters();
  };
  const auto a = weights(1), same = weights(1), other = weights(2);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(at::equal(a[i], same[i]));
  CHECK_FALSE(at::equal(a[0], other[0]));
  CHECK(cf::sample_shape_of(*std::make_unique<cf::MlpVelocity>(cf::MlpOptions{.dimension = 7})) ==
        std::vector<std::int64_t>{7});
}

TEST_CASE("an MLP tells times and classes apart") {
  cf::MlpVelocity model({.dimension = 2, .width = 16, .classes = 2});
  const Tensor x = laws::floats({1, 2}).expand({2, 2});
  const Tensor same = at::full({2}, 0.5), labels = at::tensor({0, 1}, at::kLong);
  const Tensor by_class = model(x, same, labels);
  CHECK_FALSE(at::allclose(by_class[0], by_class[1], 1e-3, 1e-4));
  const Tensor by_time = model(x, at::tensor({0.1F, 0.9F}), at::zeros({2}, at::kLong));
  CHECK_FALSE(at::allclose(by_time[0], by_time[1], 1e-3, 1e-4));
}

TEST_CASE("an MLP refuses what it cannot take") {
  cf::MlpVelocity plain({.dimension = 2, .width = 8}),
      labelled({.dimension = 2, .width = 8, .classes = 3});
  const Tensor x = at::zeros({4, 2}), t = at::full({4}, 0.5);
  const Tensor labels = at::zeros({4}, at::kLong);
  check_error([&] { plain(at::zeros({4, 3}), t); }, "x_t", "shape [B, 2], got [4, 3]");
  check_error([&] { plain(at::zeros({4, 2, 1}), t); }, "x_t", "[4, 2, 1]");
  check_error([&] { plain(x.to(at::kDouble), t); }, "x_t", "Double");
  check_error([&] { plain(x, at::zeros({3})); }, "t", "[4], got [3]");
  check_error([&] { plain(x, t, labels); }, "condition", "nothing");
  check_error([&] { labelled(x, t); }, "condition", "class labels");
  check_error([&] { labelled(x, t, at::zeros({3}, at::kLong)); }, "condition", "[4], got [3]");
  check_error([&] { labelled(x, t, at::zeros({4})); }, "condition", "Float");
  check_error([&] { labelled(x, t, at::full({4}, 3, at::kLong)); }, "condition", "[0, 3)");
  check_error([&] { labelled(x, t, at::full({4}, -1, at::kLong)); }, "condition", "[0, 3)");

  const auto make = [](const cf::MlpOptions& options) {
    return [=] { cf::MlpVelocity m(options); };
  };
  check_error(make({.dimension = 0}), "dimension", "at least 1");
  check_error(make({.width = 0}), "width", "at least 1");
  check_error(make({.depth = 0}), "depth", "at least 1");
  check_error(make({.frequencies = 0}), "frequencies", "at least 1");
  check_error(make({.classes = -1}), "classes", "at least 0");
}

TEST_CASE("a model that returns another shape is refused, and so is another's condition") {
  auto narrow = [](const Tensor& x, const Tensor&) { return x.narrow(1, 0, 1); };
  const Tensor x = at::zeros({4, 2}), t = at::full({4}, 0.5);
  check_error([&] { cf::velocity_of(narrow, x, t, cf::Unconditional{}); },
              "velocity returned by the model", "shape [4, 2], got [4, 1]");
  auto any = [](const Tensor& state, const Tensor&, const Tensor&) { return state; };
  check_error([&] { cf::velocity_of(any, x, t, at::zeros({3, 5})); }, "condition", "got 3");
}

namespace {
class NotCloneableImpl : public torch::nn::Module {
 public:
  NotCloneableImpl() { register_parameter("w", at::ones({1})); }
  Tensor forward(const Tensor& x, const Tensor&) { return x * parameters()[0]; }
};
TORCH_MODULE(NotCloneable);
}  // namespace

TEST_CASE("a module that cannot be cloned says so") {
  const NotCloneable model;
  check_error([&] { cf::clone_of(model); }, "model", "torch::nn::Cloneable");
}

TEST_CASE("conversions give the velocity of models of other conventions") {
  CHECK(off(exact) == 0);
  CHECK(off(cf::PredictsX0(predict_x0)) < 1e-12);
  CHECK(off(cf::PredictsEps(predict_eps)) < 1e-12);
  const auto scaled = [](const Tensor& x, const Tensor& t) { return exact(x, t / 1000); };
  CHECK(off(cf::ScaledTime(scaled)) < 1e-12);
  const auto hundred = [](const Tensor& x, const Tensor& t) { return exact(x, t / 100); };
  CHECK(off(cf::ScaledTime(hundred, 100)) < 1e-12);
  const auto reversed = [](const Tensor& x, const Tensor& s) { return -exact(x, 1 - s); };
  CHECK(off(cf::ReversedTime(reversed)) < 1e-12);
}

TEST_CASE("conversions compose") {
  const auto eps_of_1000 = [](const Tensor& x, const Tensor& t) {
    return predict_eps(x, t / 1000);
  };
  CHECK(off(cf::PredictsEps(cf::ScaledTime(eps_of_1000))) < 1e-11);
  const auto reversed_1000 = [](const Tensor& x, const Tensor& s) {
    return -exact(x, 1 - s / 1000);
  };
  CHECK(off(cf::ReversedTime(cf::ScaledTime(reversed_1000))) < 1e-11);
}

TEST_CASE("conversions pass conditions, modules, clones and shapes on") {
  cf::MlpVelocity net({.dimension = 2, .width = 8, .classes = 3});
  auto adapted = cf::PredictsEps(cf::ScaledTime(cf::ReversedTime(net), 10));
  CHECK(cf::module_of(adapted) == net.ptr());
  CHECK(cf::sample_shape_of(adapted) == std::vector<std::int64_t>{2});
  const auto copy = cf::clone_of(adapted);
  CHECK(cf::module_of(copy) != net.ptr());
  const Tensor x = laws::floats({3, 2}), t = at::tensor({0.2F, 0.5F, 0.7F});
  const Tensor labels = at::tensor({0, 1, 2}, at::kLong);
  const Tensor by_hand = cf::velocity_from_eps(x, -net(x, 1 - t * 10, labels), t);
  CHECK(relative_distance(cf::velocity_of(adapted, x, t, labels), by_hand) < 1e-6);
  check_error([&] { cf::ScaledTime(net, 0); }, "scale", "above 0");
}

namespace {
// Remembers how often it ran and on how many rows.
struct Counted {
  std::shared_ptr<std::vector<std::int64_t>> rows = std::make_shared<std::vector<std::int64_t>>();
  Tensor operator()(const Tensor& x, const Tensor& t, const Tensor& condition) {
    rows->push_back(x.size(0));
    return x * t.unsqueeze(1) + condition;
  }
};
}  // namespace

TEST_CASE("guidance mixes both velocities from one pass over a doubled batch") {
  const Tensor x = laws::floats({4, 2}, 1), t = at::linspace(0.2, 0.8, 4);
  const Tensor condition = laws::floats({4, 2}, 2), negative = laws::floats({1, 2}, 3);
  const Tensor u = x * t.unsqueeze(1) + negative, c = x * t.unsqueeze(1) + condition;
  Counted model;
  for (const double scale : {1.5, 4.5}) {
    cf::Guided guided(model, negative, scale);
    model.rows->clear();
    CHECK(relative_distance(guided(x, t, condition), u + scale * (c - u)) < 1e-6);
    CHECK(*model.rows == std::vector<std::int64_t>{8});
  }
  for (const double scale : {1.0, 0.0}) {
    cf::Guided guided(model, negative, scale);
    model.rows->clear();
    CHECK(at::equal(guided(x, t, condition), c));
    CHECK(*model.rows == std::vector<std::int64_t>{4});
  }
  check_error([&] { cf::Guided(model, condition, 2.0); }, "negative", "one row, got 4");
}
