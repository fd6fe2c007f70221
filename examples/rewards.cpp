// Several rewards: named, weighted, and brought to one scale before they are added up.
#include <iostream>

#include <contraflow/reward/analytic.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;
using namespace cf::literals;

int main() {
  //! [rewards]
  const auto bag = cf::rewards(
      "target"_r = cf::toy::InModes{{1, 4}},
      "compact"_r =
          cf::weighted(cf::NegativeDistance{at::zeros({2})}, 0.5, cf::Normalisation::standard),
      "inside"_r = [](const Tensor& x0) { return (x0.norm(2, 1) < 3).to(at::kFloat); });
  //! [rewards]
  const cf::ScoreSheet sheet = bag.score(at::randn({6, 2}), cf::Unconditional{});
  for (std::size_t i = 0; i < sheet.names.size(); ++i) {
    std::cout << sheet.names[i] << ": " << sheet.scores[std::int64_t(i)].view({1, -1}) << '\n';
  }
  std::cout << "together: " << bag.combine(sheet.scores).view({1, -1}) << '\n';
  return sheet.names.size() == 3 && sheet.scores.size(1) == 6 && sheet.failures.empty() ? 0 : 1;
}
