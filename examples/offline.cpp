// Learning from examples that somebody sorted into good and bad; nothing is generated.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>
#include <contraflow/train/offline.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  at::set_num_threads(1);  // what so small a network takes
  const cf::toy::Mixture ring = cf::toy::ring();
  auto model = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(model, ring, cf::Pretraining{.steps = 1000});

  // 32 of each kind, sorted by where they lie.
  const cf::toy::InModes is_wanted{{1, 4}};
  cf::Generator generator = cf::seeded(11);
  const Tensor all = ring(600, generator), wanted = is_wanted(all) > 0;
  const auto first = [&](const Tensor& kind) {
    return all.index_select(0, kind.nonzero().flatten().narrow(0, 0, 32));
  };
  //! [offline]
  const cf::StoredSamples samples = cf::good_and_bad(first(wanted), first(wanted.logical_not()));
  auto trainer = cf::OfflineTrainer(
      cf::SnapshotPolicy(model), samples,
      cf::Nft{.beta = 0.3, .optimality = cf::Optimality{.clip = 2}} + 0.01 * cf::VelocityKl{},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  trainer.run(300);
  //! [offline]

  // What the averaged weights generate now.
  auto improved = trainer.policy().model(cf::Role::average);
  const auto velocity = [&](const Tensor& x, double sigma) {
    return improved(x, at::full({x.size(0)}, sigma));
  };
  const Tensor noise = cf::normal({1000, 2}, generator);
  const Tensor x0 =
      cf::sampled(cf::DpmSolver<2>{}, velocity, noise, cf::uniform_grid(20), generator);
  const double after = is_wanted(x0).mean().item<double>();
  std::cout << "wanted: 0.25 of the data, " << after << " of what is generated\n";
  return after > 0.5 ? 0 : 1;
}
