// Roles and how they follow.

#include "laws/policy.hpp"

#include <cmath>

#include <catch2/catch_test_macros.hpp>
#include <torch/nn/modules/batchnorm.h>

#include <contraflow/model/mlp.hpp>
#include <contraflow/model/module_velocity.hpp>
#include <contraflow/policy/snapshot_policy.hpp>

#include "archetypes/policies.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

cf::MlpVelocity small_model() { return cf::MlpVelocity({.width = 8, .depth = 2}); }

// The first weight of a role.
template <class P>
Tensor weight(P& policy, Role role) {
  return cf::module_of(policy.model(role))->parameters()[0];
}

using All = cf::Roles<Role::current, Role::old, Role::reference>;

}  // namespace

TEST_CASE("policies keep the laws of policies") {
  const Tensor x = laws::floats({5, 2});
  laws::policy([] { return cf::SnapshotPolicy(small_model()); }, x);
  laws::policy(
      [] {
        return cf::SnapshotPolicy(small_model(),
                                  {.old_decay = cf::Constant{0}, .average_every = 2});
      },
      x);
  laws::policy([] { return cf::SnapshotPolicy(archetypes::PlainModel(2)); }, x);
  laws::policy([] { return archetypes::PlainPolicy(archetypes::PlainModel(2)); }, x);
  const Tensor labels = at::tensor({0, 1, 2, 0, 1}, at::kLong);
  laws::policy([] { return cf::SnapshotPolicy(cf::MlpVelocity({.width = 8, .classes = 3})); }, x,
               labels);
}

TEST_CASE("the caller's model is the one that is trained") {
  cf::MlpVelocity model = small_model();
  cf::SnapshotPolicy policy(model);
  policy.keep(All{});
  CHECK(cf::module_of(policy.model(Role::current)) == model.ptr());
  for (const Role role : {Role::old, Role::reference, Role::average}) {
    CHECK(cf::module_of(policy.model(role)) != model.ptr());
    for (const Tensor& p : cf::module_of(policy.model(role))->parameters()) {
      CHECK_FALSE(p.requires_grad());
    }
  }
  for (const Tensor& p : model->parameters()) CHECK(p.requires_grad());
}

TEST_CASE("the old role moves by its schedule, the average by its own") {
  cf::SnapshotPolicy policy(small_model(),
                            {.old_decay = [](std::int64_t i) { return i == 4 ? 0.75 : 0.25; },
                             .average_decay = cf::Constant{0.5}});
  policy.keep(All{});
  const Tensor start = weight(policy, Role::current).detach().clone();
  laws::move_parameters(policy);
  const Tensor now = weight(policy, Role::current).detach().clone();
  policy.after_gradient_step(1);
  CHECK(relative_distance(weight(policy, Role::average), (start + now) / 2) < 1e-6);
  CHECK(at::equal(weight(policy, Role::old), start));
  policy.after_epoch(4);
  CHECK(relative_distance(weight(policy, Role::old), 0.75 * start + 0.25 * now) < 1e-6);
  CHECK(relative_distance(weight(policy, Role::average), (start + now) / 2) < 1e-6);
  CHECK(at::equal(weight(policy, Role::reference), start));
  CHECK(at::equal(weight(policy, Role::current), now));
}

TEST_CASE("a decay of 0 copies bits, a decay of 1 stands still") {
  for (const double decay : {0.0, 1.0}) {
    cf::SnapshotPolicy policy(small_model(), {.old_decay = cf::Constant{decay}});
    policy.keep(All{});
    laws::move_parameters(policy, 0.1);
    policy.after_epoch(1);
    CHECK(at::equal(weight(policy, Role::old), weight(policy, Role::current)) == (decay == 0));
    CHECK(at::equal(weight(policy, Role::old), weight(policy, Role::reference)) == (decay == 1));
  }
}

TEST_CASE("the average may follow at some steps only") {
  cf::SnapshotPolicy policy(small_model(), {.average_decay = cf::Constant{0}, .average_every = 8});
  const auto follows = [&](std::int64_t step) {
    laws::move_parameters(policy);
    policy.after_gradient_step(step);
    return at::equal(weight(policy, Role::average), weight(policy, Role::current));
  };
  for (std::int64_t step = 1; step <= 24; ++step) CHECK(follows(step) == (step % 8 == 0));
}

TEST_CASE("roles are kept from the moment they are asked for, and no others") {
  cf::SnapshotPolicy policy(small_model());
  const Tensor x = laws::floats({2, 2}), t = at::full({2}, 0.5);
  const cf::Unconditional none;
  check_error([&] { policy.velocity(Role::old, x, t, none); }, "role", "got old");
  check_error([&] { policy.velocity(Role::reference, x, t, none); }, "role", "got reference");
  CHECK_FALSE(policy.old_deviation().has_value());
  laws::move_parameters(policy);
  policy.keep(cf::Roles<Role::current, Role::reference>{});
  CHECK(at::equal(weight(policy, Role::reference), weight(policy, Role::current)));
  check_error([&] { policy.model(Role::old); }, "role", "got old");
  check_error([&] { policy.model(Role{"teacher"}); }, "role", "got teacher");
  // Asked for again, it is not cloned again.
  const Tensor kept = weight(policy, Role::reference).clone();
  laws::move_parameters(policy);
  policy.keep(cf::Roles<Role::reference>{});
  CHECK(at::equal(weight(policy, Role::reference), kept));
}

TEST_CASE("parameters without gradient are not trained") {
  cf::MlpVelocity model = small_model();
  const auto all = model->parameters();
  Tensor(all[0]).set_requires_grad(false);
  cf::SnapshotPolicy policy(model);
  CHECK(policy.parameters().size() == all.size() - 1);
}

TEST_CASE("the deviation of the old role is relative") {
  cf::SnapshotPolicy policy(archetypes::PlainModel(1));
  policy.keep(All{});
  // The weights are 0.5 and 0.1.
  {
    const at::NoGradGuard no_gradient;
    Tensor(policy.parameters()[0]).add_(0.3);
  }
  CHECK(std::abs(policy.old_deviation().value() - 0.3 / std::hypot(0.5, 0.1)) < 1e-6);
}

TEST_CASE("buffers follow, and integers are copied") {
  const torch::nn::BatchNorm1d norm(2);
  const cf::ModuleVelocity model(
      norm, [](auto& module, const Tensor& x, const Tensor&) { return module->forward(x); });
  cf::SnapshotPolicy policy(model, {.old_decay = cf::Constant{0.5}});
  policy.keep(All{});
  policy.velocity(Role::current, laws::floats({8, 2}) + 4, at::full({8}, 0.5), cf::Unconditional{});
  const auto state = policy.state();
  CHECK(state.at("current.num_batches_tracked").item<int>() == 1);
  CHECK(state.at("old.num_batches_tracked").item<int>() == 0);
  policy.after_epoch(1);
  CHECK(state.at("old.num_batches_tracked").item<int>() == 1);
  CHECK(relative_distance(state.at("old.running_mean"), state.at("current.running_mean") / 2) <
        1e-6);
  CHECK(state.at("reference.num_batches_tracked").item<int>() == 0);
}

TEST_CASE("averages are of equal lists and of decays in [0, 1]") {
  const std::vector<Tensor> one{at::zeros({2})}, two{at::ones({2}), at::ones({3})};
  check_error([&] { cf::move_average(one, two, 0.5); }, "average", "as many tensors");
  check_error([&] { cf::move_average(one, one, 1.5); }, "decay", "[0, 1]");
  check_error([&] { cf::move_average(one, one, -0.1); }, "decay", "[0, 1]");
  check_error([&] { cf::move_average(one, one, std::nan("")); }, "decay", "nan");
  check_error([&] { cf::relative_distance(one, two); }, "a", "as many");
  CHECK(cf::relative_distance({}, {}) == 0);
  cf::SnapshotPolicy policy(small_model(), {.old_decay = cf::Constant{2}});
  policy.keep(All{});
  check_error([&] { policy.after_epoch(1); }, "decay", "got 2");
  check_error([] { cf::SnapshotPolicy bad(small_model(), {.average_every = 0}); }, "average_every",
              "at least 1");
}

TEST_CASE("a state that does not fit is refused and nothing is taken from it") {
  cf::SnapshotPolicy policy(small_model());
  policy.keep(All{});
  auto state = policy.state();
  const Tensor before = weight(policy, Role::current).detach().clone();
  auto missing = state;
  missing.erase("old.gate");
  for (auto& [name, tensor] : missing) tensor = tensor.detach() + 1;
  check_error([&] { policy.load(missing); }, "state", "a tensor named old.gate");
  auto bent = state;
  for (auto& [name, tensor] : bent) tensor = tensor.detach() + 1;
  bent["reference.output_bias"] = at::zeros({5});
  check_error([&] { policy.load(bent); }, "reference.output_bias", "[5]");
  CHECK(at::equal(weight(policy, Role::current), before));
}
