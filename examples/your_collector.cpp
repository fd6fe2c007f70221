// A collector of your own: samples that are not generated but replayed from a store.
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [collector]
/// Replays stored rollouts: each epoch eight groups of the store, in random order.
struct Replay {
  Tensor store;  ///< [groups, members, D]

  template <class P, class Prompts>
  cf::Rollout<cf::NothingRecorded> collect(const cf::CollectorContext<P, Prompts>& context) const {
    cf::Generator generator =
        cf::seeded(context.seed).stream(cf::Purpose::prompts, std::uint64_t(context.epoch));
    const Tensor chosen = cf::permutation(store.size(0), generator).narrow(0, 0, 8);
    cf::Rollout<cf::NothingRecorded> rollout;
    rollout.x0 = store.index_select(0, chosen).flatten(0, 1);
    rollout.group = at::arange(8).repeat_interleave(store.size(1));
    rollout.prompt = at::zeros_like(rollout.group);  // there is one, which says nothing
    rollout.id = at::arange(rollout.group.numel());
    return rollout;
  }
};
//! [collector]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 128, .depth = 3});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 1000});
  cf::Generator generator = cf::seeded(1);
  const Tensor store = cf::toy::ring()(64 * 24, generator).view({64, 24, 2});
  //! [trainer]
  // Who made the samples stays who they are: `old` does not move. Rewards are asked anew.
  auto policy = cf::SnapshotPolicy(model, {.old_decay = cf::Constant{1}});
  auto trainer =
      cf::Trainer(policy, Replay{store}, cf::toy::InModes{{1, 4}},
                  cf::Nft{.beta = 0.3} + 0.01 * cf::VelocityKl{}, cf::Learning{.gradient_steps = 4},
                  cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  //! [trainer]
  const double before = trainer.evaluate().reward;
  trainer.run(60);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after << '\n';
  return after > before + 0.1 ? 0 : 1;
}
