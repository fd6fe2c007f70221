// What a sample is worth beside those of its prompt, and the r in [0, 1] that NFT makes of it.
#include <cmath>
#include <iostream>

#include <contraflow/advantage/advantages.hpp>
#include <contraflow/objective/nft.hpp>

namespace cf = contraflow;
using cf::Tensor;

int main() {
  //! [advantages]
  const Tensor reward = at::tensor({1.0, 0.0, 0.0, 5.0, 5.0, 5.0}, at::kDouble);
  const Tensor group = at::tensor({0, 0, 0, 1, 1, 1}, at::kLong);
  const cf::GroupAdvantage advantage{.spread = cf::Spread::group};
  const Tensor a = advantage(reward, group);  // the second group teaches nothing: exactly 0
  const Tensor r = cf::Optimality{.clip = 5}(a);
  //! [advantages]
  std::cout << "advantages: " << a.view({1, -1}) << "\nr: " << r.view({1, -1}) << '\n';
  const bool is_centred = std::abs(a.sum().item<double>()) < 1e-9;
  return is_centred && a[3].item<double>() == 0 && r[3].item<double>() == 0.5 ? 0 : 1;
}
