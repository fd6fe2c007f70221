// Roles that are adapters on one base.

#include <map>
#include <string>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <contraflow/objective/velocity_kl.hpp>
#include <contraflow/policy/lora_policy.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/train/checkpoint.hpp>

#include "laws/errors.hpp"
#include "laws/policy.hpp"
#include "network/tiny_mmdit.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Role;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

using Policy = cf::LoraPolicy<cf::Mmdit>;
using State = std::map<std::string, Tensor>;

const cf::LoraOptions small_lora{.rank = 2, .alpha = 6};

Policy make(std::uint64_t seed = 0) { return Policy(tiny::mmdit(), small_lora, {.seed = seed}); }

// An adapter whose factors are both not zero.
cf::LoraWeights trained_weights() {
  Policy policy = make(3);
  laws::move_parameters(policy, 0.3);
  cf::LoraWeights weights = policy.weights(Role::current);
  for (auto& [name, tensor] : weights.tensors) tensor = tensor.detach().clone();
  return weights;
}

Policy make_from_start() { return Policy(tiny::mmdit(), {}, {.start = trained_weights()}); }

State copied(const State& state) {
  State copy;
  for (const auto& [name, tensor] : state) copy.emplace(name, tensor.detach().clone());
  return copy;
}
bool same(const State& a, const State& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    if (!b.contains(name) || !same_bits(tensor, b.at(name))) return false;
  }
  return true;
}
State base_of(Policy& policy) { return copied(cf::named_weights(*cf::module_of(policy.model()))); }

Tensor velocity(Policy& policy, Role role) {
  const tiny::Input in = tiny::input();
  return policy.velocity(role, in.x_t, in.t, in.condition).detach();
}

small::Options run_options() {
  small::Options options;
  options.collection.prompts_per_epoch = 2;
  options.collection.group_size = 4;
  options.collection.grid = cf::uniform_grid(4);
  options.optimization.optimizer = cf::adamw({.learning_rate = 1e-2});
  options.evaluation.samples = 4;
  options.evaluation.grid = cf::uniform_grid(2);
  options.collection.sample_shape = {4, 4, 4};
  options.seed.value = 7;
  return options;
}

// Brighter is better.
Tensor brightness(const Tensor& x0) { return x0.flatten(1).mean(1); }

template <class S, class O>
auto trainer(Policy policy, const S& solver, const O& objective,
             const small::Options& options = run_options()) {
  return small::trainer(std::move(policy), solver, brightness, objective, options,
                        cf::PromptRows(tiny::condition(3)));
}
auto nft(Policy policy, const small::Options& options = run_options()) {
  return trainer(std::move(policy), cf::DpmSolver<2>{}, cf::Nft{} + 1e-2 * cf::VelocityKl{},
                 options);
}
auto grpo(Policy policy, const small::Options& options = run_options()) {
  return trainer(std::move(policy), cf::FlowSde{},
                 cf::Grpo{.clip_range = 0.1} + 0.1 * cf::TransitionKl{}, options);
}

// Trains some epochs; afterwards the base has its bits, the current role has moved, and the
// reference is where it was.
template <class T>
void check_training(T run) {
  Policy& policy = run.policy();
  const State base = base_of(policy);
  const Tensor start = velocity(policy, Role::reference);
  CHECK(same_bits(velocity(policy, Role::current), start));
  for (int epoch = 0; epoch < 3; ++epoch) {
    const cf::EpochReport report = run.run_epoch();
    CHECK(report.find("skipped_steps") == 0);
  }
  CHECK(run.gradient_steps() == 3);
  CHECK(same(base_of(policy), base));
  CHECK(same_bits(velocity(policy, Role::reference), start));
  const Tensor current = velocity(policy, Role::current);
  CHECK(relative_distance(current, start) > 1e-3);
  CHECK_FALSE(same_bits(velocity(policy, Role::average), current));
  for (const Tensor& weight : cf::module_of(policy.model())->parameters()) {
    CHECK_FALSE(weight.requires_grad());
    CHECK_FALSE(weight.grad().defined());
  }
}

}  // namespace

TEST_CASE("adapters on one base keep the laws of policies") {
  const tiny::Input in = tiny::input(3);
  laws::policy([] { return make(); }, in.x_t, in.condition);
  laws::policy([] { return make_from_start(); }, in.x_t, in.condition);
  laws::policy(
      [] { return Policy(tiny::mmdit(1, {.recompute = true}), small_lora, {.average_every = 2}); },
      in.x_t, in.condition);
}

TEST_CASE("NFT trains the current adapter and leaves the base and the reference alone") {
  check_training(nft(make()));
  check_training(nft(make_from_start()));
}

TEST_CASE("GRPO trains the current adapter and leaves the base and the reference alone") {
  check_training(grpo(make()));
  check_training(grpo(make_from_start()));
}

TEST_CASE("training raises the reward") {
  small::Options options = run_options();
  options.collection.group_size = 8;
  options.optimization.optimizer = cf::adamw({.learning_rate = 3e-2});
  auto run = nft(make(), options);
  const double before = run.evaluate().reward;
  run.run(8);
  CHECK(run.evaluate().reward > before + 0.05);
}

TEST_CASE("recomputation gives the update of keeping") {
  const auto trained = [](bool recompute) {
    auto run = nft(Policy(tiny::mmdit(1, {.recompute = recompute}), small_lora));
    run.run(2);
    return copied(run.policy().state());
  };
  const State kept = trained(false), recomputed = trained(true);
  REQUIRE(kept.size() == recomputed.size());
  for (const auto& [name, tensor] : kept) {
    CHECK(relative_distance(recomputed.at(name), tensor) < 1e-3);
  }
}

TEST_CASE("roles cost their adapter and no more") {
  Policy policy = make();
  CHECK(policy.lora().names() == std::vector<std::string>{"current", "average"});
  policy.keep(cf::Roles<Role::current, Role::reference>{});
  CHECK(policy.lora().names().size() == 2);
  policy.keep(cf::Roles<Role::old>{});
  policy.keep(cf::Roles<Role::old>{});
  CHECK(policy.lora().names() == std::vector<std::string>{"current", "average", "old"});
  // A reference that is not the base needs one of its own.
  Policy started = make_from_start();
  started.keep(cf::Roles<Role::reference>{});
  CHECK(started.lora().names() == std::vector<std::string>{"current", "average", "reference"});
  const tiny::Input in = tiny::input();
  Policy fresh = make();
  check_error([&] { fresh.velocity(Role::old, in.x_t, in.t, in.condition); }, "name", "got old");
  CHECK_FALSE(fresh.old_deviation().has_value());
}

TEST_CASE("without an adapter to start from the reference is the base, with one it is that") {
  Policy fresh = make(), started = make_from_start();
  started.keep(Policy::Available{});
  cf::Mmdit plain = tiny::mmdit();
  const Tensor base = tiny::velocity(plain).detach();
  CHECK(same_bits(velocity(fresh, Role::reference), base));
  cf::Lora lora(plain.module());
  lora.add("start", trained_weights(), "test");
  lora.use("start");
  const Tensor start = tiny::velocity(plain).detach();
  CHECK(relative_distance(start, base) > 1e-3);
  // LibTorch multiplies in another order where a gradient is wanted.
  CHECK(relative_distance(velocity(started, Role::reference), start) < 1e-5);
  CHECK(relative_distance(velocity(started, Role::current), start) < 1e-5);
}

TEST_CASE("old and average follow by their schedules") {
  Policy policy(
      tiny::mmdit(), small_lora,
      {.old_decay = cf::Constant{0.25}, .average_decay = cf::Constant{0.5}, .average_every = 2});
  policy.keep(Policy::Available{});
  const auto value = [&](Role role) {
    return policy.lora().parameters(std::string(role.name()))[0];
  };
  const Tensor start = value(Role::current).detach().clone();
  laws::move_parameters(policy);
  const Tensor now = value(Role::current).detach().clone();
  policy.after_gradient_step(1);
  CHECK(same_bits(value(Role::average), start));
  policy.after_gradient_step(2);
  CHECK(relative_distance(value(Role::average), (start + now) / 2) < 1e-6);
  CHECK(same_bits(value(Role::old), start));
  CHECK(policy.old_deviation() > 0);
  policy.after_epoch(2);
  CHECK(relative_distance(value(Role::old), 0.25 * start + 0.75 * now) < 1e-6);
  CHECK(same_bits(value(Role::current), now));
}

TEST_CASE("the state is every adapter and nothing of the base, and goes through a checkpoint") {
  auto first = nft(make());
  first.run(2);
  const TemporaryDirectory directory;
  const auto path = cf::save_checkpoint(first, directory.path());
  for (const auto& [name, tensor] : first.policy().state()) {
    CHECK_THAT(name, Catch::Matchers::ContainsSubstring("lora_"));
  }
  auto second = nft(make(9));
  cf::load_checkpoint(second, path);
  CHECK(same(copied(second.policy().state()), copied(first.policy().state())));
  first.run(4);
  second.run(4);
  CHECK(second.gradient_steps() == 4);
  CHECK(same(copied(second.policy().state()), copied(first.policy().state())));
}

TEST_CASE("adapters of another alpha are refused by name") {
  Policy written = make(), other(tiny::mmdit(), {.rank = 2, .alpha = 1});
  const State before = copied(other.state());
  check_error([&] { other.load(written.state()); }, "alpha", "in the state, 6, got 1");
  CHECK(same(copied(other.state()), before));
}

TEST_CASE("a state of adapters that does not fit is refused and nothing is taken from it") {
  Policy policy = make();
  policy.keep(Policy::Available{});
  const State before = copied(policy.state());
  State missing = copied(before);
  for (auto& [name, tensor] : missing) {
    if (name != "lora_alpha") tensor = tensor + 1;
  }
  const std::string gone = "old.transformer_blocks.0.attn.to_q.lora_A.weight";
  REQUIRE(missing.erase(gone) == 1);
  check_error([&] { policy.load(missing); }, "state", gone);
  CHECK(same(copied(policy.state()), before));
}

TEST_CASE("a seed gives the bits of the fresh adapter") {
  Policy one = make(1), same_seed = make(1), other = make(2);
  CHECK(same(one.state(), same_seed.state()));
  CHECK_FALSE(same(one.state(), other.state()));
  check_error([] { Policy bad(tiny::mmdit(), {}, {.average_every = 0}); }, "average_every",
              "got 0");
  check_error([] { Policy bad(tiny::mmdit(), {.targets = {"none"}}); }, "targets", "got none");
}
