// expect: a Reward must return one score a sample
#include <string>

#include <contraflow/reward/combination.hpp>

namespace cf = contraflow;

#ifdef POSITIVE_CONTROL
using Scores = std::vector<double>;
#else
using Scores = std::vector<std::string>;
#endif

cf::ScoreSheet run(const cf::Tensor& x0) {
  const auto bag = cf::as_rewards([](const cf::Tensor&) { return Scores{}; });
  return bag.score(x0, cf::Unconditional{});
}
