// An advantage, training times and a source of prompts of your own: components in any order.
#include <algorithm>
#include <iostream>
#include <span>

#include <contraflow/contraflow.hpp>

namespace cf = contraflow;
using cf::Tensor;

//! [advantage]
/// `(reward - mean of the group) / (greatest - least of the group)`.
struct RangeAdvantage {
  Tensor operator()(const Tensor& reward, const Tensor& group) const {
    return cf::map_groups(reward, group, [](std::span<const double> r, std::span<double> a) {
      const auto [least, greatest] = std::minmax_element(r.begin(), r.end());
      const double mean = cf::mean_of(r);
      for (std::size_t i = 0; i < r.size(); ++i) a[i] = (r[i] - mean) / (*greatest - *least);
    });
  }
};
static_assert(cf::Advantage<RangeAdvantage>);
//! [advantage]

//! [training times]
/// `1 - u^2` with u uniform: more times near the noise.
struct NoisyTimes {
  Tensor operator()(std::int64_t units, const cf::TimeGrid&, cf::Generator& generator) const {
    return 1 - cf::uniform({units, 1}, generator).square();
  }
};
static_assert(cf::TrainingTimes<NoisyTimes>);
//! [training times]

//! [prompt source]
/// Two classes, the second asked for twice as often.
struct UnevenClasses {
  std::int64_t size() const { return 3; }
  Tensor condition(const Tensor& ids) const { return ids.clamp_max(1); }
};
static_assert(cf::PromptSource<UnevenClasses>);
//! [prompt source]

int main() {
  at::set_num_threads(1);  // what so small a network takes
  const auto reward = [](const Tensor& x0, const Tensor& labels) {
    return x0.select(1, 0) * (2 * labels - 1);  // to the left and to the right
  };
  //! [together]
  auto trainer = cf::Trainer(cf::SnapshotPolicy(cf::MlpVelocity({.classes = 2})), cf::Euler{},
                             reward, cf::Nft{}, UnevenClasses{}, RangeAdvantage{},
                             cf::ForwardProcess{.times = NoisyTimes{}},
                             cf::Optimization{.optimizer = cf::adamw({.learning_rate = 2e-3})});
  //! [together]
  const double before = trainer.evaluate().reward;
  trainer.run(20);
  const double after = trainer.evaluate().reward;
  std::cout << "reward before: " << before << ", after: " << after << '\n';
  return after > before + 0.5 ? 0 : 1;
}
