// expect: one that takes labels or captions needs prompts: give the trainer some
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

void run() {
  const auto velocity = [](auto& module, const cf::Tensor& x, const cf::Tensor& t,
                           const cf::Tensor& label) { return module->forward(x, t, label); };
  const cf::ModuleVelocity model(cf::MlpVelocity({.classes = 4}), velocity);
#ifdef POSITIVE_CONTROL
  auto trainer = cf::Trainer(cf::SnapshotPolicy(model), cf::Euler{}, cf::toy::InModes{{1, 4}},
                             cf::Nft{}, cf::Collection{.sample_shape = {2}}, cf::class_prompts(4));
#else
  auto trainer = cf::Trainer(cf::SnapshotPolicy(model), cf::Euler{}, cf::toy::InModes{{1, 4}},
                             cf::Nft{}, cf::Collection{.sample_shape = {2}});
#endif
  trainer.run(1);
}
