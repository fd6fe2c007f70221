// Who collects, where a term has a say in it.

#include <algorithm>
#include <memory>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/objective/crd.hpp>
#include <contraflow/objective/dgpo.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/train/offline.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;

namespace {

using Published = decltype(cf::Crd{} + 0.1 * cf::OptimalityKl{});
static_assert(Published::collector == Role::sampler);
static_assert(Published::KeptRoles::contains<Role::sampler>);
static_assert(!Published::AllVelocities::contains<Role::sampler>);
static_assert(cf::Sum<cf::Dgpo>::collector == Role::old);

// Learns nothing, and notes the samples of each epoch; who collects is @p R.
template <Role R>
struct Noting {
  using Velocities = cf::Roles<Role::current, Role::old>;
  using Points = cf::ForwardProcess;
  static constexpr std::string_view name = "noting";
  static constexpr Role collector = R;

  std::int64_t begin_with_current = 0;
  std::shared_ptr<std::vector<Tensor>> seen = std::make_shared<std::vector<Tensor>>();

  std::int64_t current_steps() const { return begin_with_current; }
  template <class Batch>
  Tensor loss(const Batch& batch, const Tensor&, cf::Statistics&) const {
    seen->push_back(batch.x0.clone());
    return cf::matching_error(batch, cf::velocity<Role::current>(batch));
  }
};

// Three roles that differ behind every epoch.
auto policy() {
  return cf::SnapshotPolicy(small::model(),
                            {.old_decay = cf::Constant{0.9}, .sampler_decay = cf::Constant{0.5}});
}
// The samples of each of some epochs, by a role that is told apart by who it is.
template <Role R, class... More>
std::vector<Tensor> collected(std::int64_t begin_with_current, const More&... more) {
  const Noting<R> term{begin_with_current};
  auto trainer =
      small::trainer(policy(), cf::Euler{}, small::reward(), term, small::options(), more...);
  trainer.run(4);
  return *term.seen;
}

}  // namespace

TEST_CASE("a term says who collects") {
  const auto old = collected<Role::old>(0), sampler = collected<Role::sampler>(0),
             current = collected<Role::current>(0);
  REQUIRE(old.size() == 4);
  // All begin as one, and learn the same from the same samples.
  CHECK(laws::same_bits(old[0], sampler[0]));
  CHECK(laws::same_bits(old[0], current[0]));
  CHECK_FALSE(laws::same_bits(old[1], sampler[1]));
  CHECK_FALSE(laws::same_bits(sampler[1], current[1]));
  CHECK_FALSE(laws::same_bits(old[1], current[1]));
}

TEST_CASE("the current role collects for the first steps, if a term says so") {
  const auto old = collected<Role::old>(0), current = collected<Role::current>(0);
  // A gradient step an epoch: two epochs have fewer than two steps behind them.
  const auto begun = collected<Role::old>(2);
  CHECK(laws::same_bits(begun[1], current[1]));
  CHECK_FALSE(laws::same_bits(begun[1], old[1]));
  CHECK_FALSE(laws::same_bits(begun[2], current[2]));
  const auto ahead = collected<Role::old>(2, cf::Ahead{1});
  REQUIRE(ahead.size() == 4);
  CHECK(laws::same_bits(ahead[0], begun[0]));
  CHECK(cf::Sum<cf::Dgpo>{{cf::Dgpo{}}, {1}}.collector_at(199) == Role::current);
  CHECK(cf::Sum<cf::Dgpo>{{cf::Dgpo{}}, {1}}.collector_at(200) == Role::old);
}

TEST_CASE("CRD's sampler is the current policy at first, and not its old one") {
  auto trainer = small::trainer(
      cf::SnapshotPolicy(small::model(),
                         {.old_decay = cf::Linear{.value = 0.25, .slope = 0.005, .end = 0.999}}),
      cf::Euler{}, small::reward(), cf::Crd{} + 0.1 * cf::OptimalityKl{}, small::options());
  trainer.run(2);
  const auto weights = [&](Role role) {
    return cf::module_of(trainer.policy().model(role))->parameters()[0].detach();
  };
  CHECK(laws::same_bits(weights(Role::sampler), weights(Role::current)));
  CHECK_FALSE(laws::same_bits(weights(Role::old), weights(Role::current)));
  CHECK(trainer.state().tensors.contains("sampler.layers.0.weight") ==
        trainer.state().tensors.contains("old.layers.0.weight"));
}

TEST_CASE("an adapter collects as a sampler, and an old one follows every step") {
  cf::LoraPolicyOptions options;
  options.old_decay = cf::Constant{0};
  options.old_every_step = true;
  options.sampler_decay = cf::Constant{1};
  cf::LoraPolicy policy(tiny::mmdit(), {.rank = 2}, options);
  policy.keep(cf::Roles<Role::current, Role::old, Role::sampler>{});
  {
    const at::NoGradGuard no_gradient;
    for (const Tensor& weight : policy.parameters()) Tensor(weight).add_(1);
  }
  const auto first = [&](Role role) { return policy.tensors_of(role).begin()->second.detach(); };
  policy.after_gradient_step(1);
  CHECK_FALSE(laws::same_bits(first(Role::old), first(Role::current)));
  policy.after_step_of_collector(1);
  CHECK(laws::same_bits(first(Role::old), first(Role::current)));
  policy.after_epoch(1);
  CHECK_FALSE(laws::same_bits(first(Role::sampler), first(Role::current)));
  const Tensor before = first(Role::old).clone();
  {
    const at::NoGradGuard no_gradient;
    for (const Tensor& weight : policy.parameters()) Tensor(weight).add_(1);
  }
  policy.after_epoch(2);
  CHECK(laws::same_bits(first(Role::old), before));
}

TEST_CASE("an old role follows every step of a run that collects, and no other") {
  const auto policy = [] {
    return cf::SnapshotPolicy(small::model(),
                              {.old_decay = cf::Constant{0}, .old_every_step = true});
  };
  const auto follows = [](auto& trainer) {
    trainer.run_epoch();
    CHECK(trainer.gradient_steps() == 1);
    const auto current = trainer.policy().tensors_of(Role::current);
    const auto old = trainer.policy().tensors_of(Role::old);
    return std::equal(
        current.begin(), current.end(), old.begin(),
        [](const auto& a, const auto& b) { return laws::same_bits(a.second.detach(), b.second); });
  };
  small::Options o = small::options();
  auto online = small::trainer(policy(), cf::Euler{}, small::reward(), cf::Nft{}, o);
  CHECK(follows(online));
  const cf::StoredSamples samples{laws::floats({8, 2}), at::arange(8, at::kDouble),
                                  at::zeros({8}, at::kLong)};
  cf::OfflineTrainer offline(policy(), samples, cf::Nft{});
  CHECK_FALSE(follows(offline));
  laws::check_error(
      [&] { small::trainer(policy(), cf::Euler{}, small::reward(), cf::Nft{}, o, cf::Ahead{1}); },
      "old_every_step", "false beside Ahead");
}
