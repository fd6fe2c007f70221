// One program for one process or many: `mpirun -n 4 several_processes`.
#include <exception>
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/distributed/mpi.hpp>
#include <contraflow/observe/progress_bar.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

//! [trained]
double trained(const cf::Mpi& mpi) {
  auto model = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 1000}, mpi);
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}},
      cf::Nft{.beta = 1} + 1e-4 * cf::VelocityKl{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Learning{.gradient_steps = 2},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})}, mpi);
  trainer.run(30, cf::ProgressBar{});  // is shown by the first process
  return trainer.evaluate().reward;    // each evaluates its share, and all are told
}
//! [trained]

//! [main]
int main(int argc, char** argv) try {
  const cf::Mpi mpi(argc, argv);  // one process without mpirun
  at::set_num_threads(1);
  const double reward = trained(mpi);
  if (mpi.rank() == 0) std::cout << "share on the two: " << reward << '\n';
  return reward > 0.5 ? 0 : 1;
} catch (const std::exception& failure) {  // behind this the other processes are ended, too
  std::cerr << failure.what() << '\n';
  return 1;
}
//! [main]
