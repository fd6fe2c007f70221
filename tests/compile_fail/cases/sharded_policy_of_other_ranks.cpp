// expect: a policy that is divided between ranks is trained by these ranks
#include <contraflow/model/mlp.hpp>
#include <contraflow/objective/nft.hpp>
#include <contraflow/policy/sharded_policy.hpp>
#include <contraflow/reward/analytic.hpp>
#include <contraflow/solver/runge_kutta.hpp>
#include <contraflow/train/trainer.hpp>

namespace cf = contraflow;

struct Ranks : cf::Alone {};

inline auto trainer() {
  return cf::Trainer(cf::ShardedPolicy(cf::MlpVelocity({}), Ranks{}), cf::Euler{},
                     cf::LinearReward{at::tensor({1.0F, 0.25F})}, cf::Nft{}
#ifdef POSITIVE_CONTROL
                     ,
                     Ranks{}
#endif
  );
}
