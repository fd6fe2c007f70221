// expect: a trainer takes one PromptSource: join the prompts of both
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.classes = 4})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{}, cf::class_prompts(4)
#ifndef POSITIVE_CONTROL
                                                                      ,
                             cf::class_prompts(2)
#endif
  );
  trainer.run(1);
}
