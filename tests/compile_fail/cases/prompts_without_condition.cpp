// expect: a PromptSource must have `condition(ids) const`
#include <contraflow/contraflow.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;

struct Classes {
  std::int64_t size() const { return 4; }
#ifdef POSITIVE_CONTROL
  contraflow::Tensor condition(const contraflow::Tensor& ids) const { return ids; }
#endif
};

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.classes = 4})), cf::Euler{},
                             cf::toy::InModes{{1, 4}}, cf::Nft{}, Classes{});
  trainer.run(1);
}
