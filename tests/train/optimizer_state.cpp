// What an optimiser keeps: out of it, through files, into another one.

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <contraflow/train/checkpoint.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"
#include "train/small_runs.hpp"

namespace cf = contraflow;
using cf::Tensor;

namespace {

using Parameters = std::vector<Tensor>;

Parameters parameters() {
  cf::Generator generator = cf::seeded(3);
  Parameters all{cf::normal({4, 3}, generator), cf::normal({3}, generator),
                 cf::normal({2}, generator)};
  for (Tensor& parameter : all) parameter.set_requires_grad(true);
  return all;
}

// The last parameter never has a gradient.
void steps(torch::optim::Optimizer& optimizer, const Parameters& all, int count) {
  for (int i = 0; i < count; ++i) {
    optimizer.zero_grad();
    (all[0].pow(4).sum() + all[1].sin().sum()).backward();
    optimizer.step();
  }
}

template <class Optimizer, class Options>
cf::OptimizerFactory made_by(Options options) {
  return [options](Parameters all) { return std::make_unique<Optimizer>(std::move(all), options); };
}

std::vector<std::pair<std::string, cf::OptimizerFactory>> factories() {
  using namespace torch::optim;
  return {{"FusedAdamW", cf::adamw({.learning_rate = 0.01})},
          {"AdamW", made_by<AdamW>(AdamWOptions(0.01).amsgrad(true))},
          {"Adam", made_by<Adam>(AdamOptions(0.01).betas({0.8, 0.95}))},
          {"SGD", made_by<SGD>(SGDOptions(0.01).momentum(0.9))},
          {"SGD without momentum", made_by<SGD>(SGDOptions(0.01))},
          {"RMSprop", made_by<RMSprop>(RMSpropOptions(0.01).momentum(0.5).centered(true))},
          {"Adagrad", made_by<Adagrad>(AdagradOptions(0.01))}};
}

cf::OptimizerState copied(const cf::OptimizerState& state) {
  cf::OptimizerState copy = state;
  for (auto& [name, tensor] : copy.tensors) tensor = tensor.clone();
  return copy;
}

void check_same(const Parameters& left, const Parameters& right) {
  for (std::size_t i = 0; i < left.size(); ++i) CHECK(at::equal(left[i], right[i]));
}

}  // namespace

TEST_CASE("an optimiser with the state of another goes on with the same bits") {
  for (const auto& [name, factory] : factories()) {
    INFO(name);
    const Parameters whole = parameters(), resumed = parameters();
    const auto first = factory(whole);
    steps(*first, whole, 3);
    const cf::OptimizerState state = copied(cf::state_of(*first)), kept = copied(state);
    for (std::size_t i = 0; i < whole.size(); ++i) resumed[i].detach().copy_(whole[i].detach());
    const auto second = factory(resumed);
    cf::load_state(*second, state);
    steps(*first, whole, 4);
    steps(*second, resumed, 4);
    check_same(whole, resumed);
    // It was copied: the steps have not changed it.
    for (const auto& [key, tensor] : kept.tensors) CHECK(at::equal(tensor, state.tensors.at(key)));
  }
}

TEST_CASE("a state is taken as a whole or not at all") {
  const Parameters all = parameters();
  const auto optimizer = cf::adamw()(all);
  steps(*optimizer, all, 2);
  const cf::OptimizerState before = copied(cf::state_of(*optimizer));

  cf::OptimizerState bad = copied(before);
  SECTION("of another optimiser") { bad.values["optimizer"] = "archive"; }
  SECTION("of a shape") { bad.tensors["exp_avg_sq.1"] = at::zeros({4}); }
  SECTION("without a tensor") { bad.tensors.erase("exp_avg.0"); }
  SECTION("of more parameters") { bad.values["steps"]["7"] = 1; }
  SECTION("of a parameter without a number") { bad.values["steps"]["first"] = 1; }
  SECTION("without steps") { bad.values.erase("steps"); }
  SECTION("of steps that are no numbers") { bad.values["steps"]["0"] = "two"; }
  SECTION("of nothing") { bad = {}; }
  CHECK_THROWS_AS(cf::load_state(*optimizer, bad), cf::Error);
  const cf::OptimizerState after = cf::state_of(*optimizer);
  CHECK(after.values == before.values);
  for (const auto& [name, tensor] : before.tensors)
    CHECK(at::equal(tensor, after.tensors.at(name)));
}

TEST_CASE("a state of archives that lacks something is an error") {
  const Parameters all = parameters();
  const auto optimizer = made_by<torch::optim::Adam>(torch::optim::AdamOptions(0.1))(all);
  steps(*optimizer, all, 2);
  cf::OptimizerState state = cf::state_of(*optimizer);
  SECTION("a tensor") { state.tensors.erase(state.tensors.begin()); }
  SECTION("its groups") { state.values["archive"].erase("param_groups"); }
  SECTION("kinds") { state.values["archive"] = {{"a", nlohmann::json::array()}}; }
  SECTION("all") { state.values["archive"] = 7; }
  CHECK_THROWS_AS(cf::load_state(*optimizer, state), cf::Error);
}

TEST_CASE("a checkpoint is of safetensors and JSON alone") {
  const TemporaryDirectory folder;
  small::Options options = small::options();
  SECTION("with AdamW") {}
  SECTION("with another") {
    options.optimization.optimizer = made_by<torch::optim::Adam>(torch::optim::AdamOptions(0.1));
  }
  auto trainer = small::trainer(small::policy(), cf::Euler{}, small::reward(), cf::Nft{}, options);
  trainer.run(2);
  const auto path = cf::save_checkpoint(trainer, folder.path());
  std::set<std::string> kinds;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    kinds.insert(entry.path().extension());
  }
  CHECK(kinds == std::set<std::string>{".json", ".safetensors"});
}

TEST_CASE("a checkpoint of another composition changes nothing") {
  const TemporaryDirectory folder;
  const auto make = [](std::int64_t width) {
    return cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.width = width, .depth = 2})),
                       cf::Euler{}, small::reward(), cf::Nft{}, small::options().collection);
  };
  auto trainer = make(16), other = make(8);
  trainer.run(2);
  other.run(1);
  const cf::OptimizerState before = copied(cf::state_of(other.optimizer()));
  const auto path = cf::save_checkpoint(trainer, folder.path());
  CHECK_THROWS_AS(cf::load_checkpoint(other, path), cf::Error);
  const cf::OptimizerState after = cf::state_of(other.optimizer());
  CHECK(after.values == before.values);
  for (const auto& [name, tensor] : before.tensors)
    CHECK(at::equal(tensor, after.tensors.at(name)));
}
