// Going on after a break: the same bits as a run that had none.
#include <filesystem>
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/checkpoint.hpp>

namespace cf = contraflow;

/// A small run of NFT; the same each time it is made.
auto make_trainer() {
  auto model = cf::MlpVelocity({.dimension = 2, .width = 32, .depth = 2});
  return cf::Trainer(cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
                     cf::Nft{}, cf::Collection{.prompts_per_epoch = 4, .group_size = 12},
                     cf::Seed{7});
}

int main() {
  at::set_num_threads(1);  // what so small a network takes
  std::filesystem::remove_all("run");
  auto whole = make_trainer();
  whole.run(6);

  auto broken_off = make_trainer();
  //! [checkpoint]
  broken_off.run(4, cf::Checkpoint{.directory = "run", .every = 2});
  //! [checkpoint]
  auto trainer = make_trainer();
  //! [resume]
  cf::resume(trainer, "run");  // false where there is no checkpoint yet
  trainer.run(6);              // six epochs in total
  //! [resume]
  const bool is_same =
      trainer.policy().parameters().front().equal(whole.policy().parameters().front());
  std::cout << (is_same ? "the same bits" : "NOT the same bits") << '\n';
  return is_same ? 0 : 1;
}
