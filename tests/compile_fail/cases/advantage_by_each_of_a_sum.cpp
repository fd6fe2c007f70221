// expect: this Advantage compares each reward by itself, and these rewards give their sum alone
#include <contraflow/advantage/per_reward.hpp>
#include <contraflow/contraflow.hpp>

namespace cf = contraflow;

// A bag of a user's, that has no components.
struct Bag {
  template <class Reference>
  cf::ScoreSheet score(const cf::Tensor& x0, const Reference&) const {
    return {{"one"}, at::ones({1, x0.size(0)}, at::kDouble), {}};
  }
  cf::Tensor combine(const cf::Tensor& scores, const cf::Tensor& = {}) const { return scores[0]; }
  cf::Tensor combine_raw(const cf::Tensor& scores) const { return scores[0]; }
};

#ifdef POSITIVE_CONTROL
using Advantage = cf::GroupAdvantage;
#else
using Advantage = cf::Gdpo;
#endif

void run() {
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({})), cf::Euler{}, Bag{}, cf::Nft{},
                             Advantage{});
  trainer.run(1);
}
