// Stored examples, good and bad, and no policy that generates: NFT learns from both.

#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/core/memory.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

namespace {

/// Share of a model's samples that are good.
double share_of_good(cf::MlpVelocity model, const cf::toy::InModes& is_good) {
  cf::Generator generator = cf::seeded(5);
  const at::NoGradGuard no_gradient;
  const auto velocity = [&](const cf::Tensor& x, double sigma) {
    return model(x, at::full({x.size(0)}, sigma));
  };
  const cf::Tensor x0 =
      cf::integrate(cf::DpmSolver<2>{}, velocity, cf::normal({2000, 2}, generator),
                    cf::uniform_grid(20), generator);
  return is_good(x0).mean().item<double>();
}

}  // namespace

int main() {
  at::set_num_threads(1);  // what so small a network takes
  cf::keep_freed_memory();

  // A flow to the eight Gaussians of the ring, and samples of the ring that somebody has judged.
  auto model = cf::MlpVelocity({.dimension = 2});
  cf::pretrain(model, cf::toy::ring(), {.steps = 1500});
  const cf::toy::InModes is_good{{1, 4}};
  cf::Generator generator = cf::seeded(1);
  const cf::Tensor judged = cf::toy::ring().sample(2000, generator);
  const cf::Tensor verdict = is_good(judged) > 0;
  const double before = share_of_good(model, is_good);

  //! [offline]
  const cf::Tensor good = judged.index({verdict});
  const cf::Tensor bad = judged.index({verdict.logical_not()});
  auto trainer = cf::OfflineTrainer(
      // Nothing is collected, so the policy that stands for the samples' origin stays where it is.
      cf::SnapshotPolicy(model, {.old_decay = cf::Constant{1}}), cf::good_and_bad(good, bad),
      cf::Nft{.beta = 0.5, .optimality = {.clip = 1}} + 1e-4 * cf::VelocityKl{},
      {.update = {.gradient_steps = 8, .optimizer = cf::adamw({.learning_rate = 1e-3})}});
  trainer.run(60);
  //! [offline]

  const double after = share_of_good(model, is_good);
  std::cout << good.size(0) << " good and " << bad.size(0) << " bad examples\n"
            << "share of good samples\n  before  " << before << "\n  after   " << after << '\n';
  return after > before + 0.3 ? 0 : 1;
}
