// expect: a reward that sees whole groups stands in a bag made by rewards(...)
#include <contraflow/reward/list.hpp>

namespace cf = contraflow;

void run() {
  const auto judge = [](const cf::Tensor& a, const cf::Tensor& b) {
    return (a.select(1, 0) > b.select(1, 0)).to(at::kLong);
  };
  const auto first = [](const cf::Tensor& x0) { return x0.select(1, 0); };
  cf::RewardList<cf::Unconditional> list;
#ifdef POSITIVE_CONTROL
  list.add("first", first);
#else
  list.add("judge", cf::PairwiseReward(judge));
#endif
}
