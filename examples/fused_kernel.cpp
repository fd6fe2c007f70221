// The fused loss of NFT on raw pointers: it needs no tensors and no LibTorch.
#include <cmath>
#include <iostream>
#include <vector>

#include <contraflow/kernels/nft_loss.hpp>

namespace cf = contraflow;

int main() {
  //! [kernel]
  const std::vector<float> v(8, 0.5F), v_old(8, 0.25F), x0(8, 0), eps(8, 1);
  const std::vector<double> t(2, 0.5), r(2, 1.0);
  std::vector<float> gradient(8);
  std::vector<double> positive(2), negative(2), kl(2);
  cf::kernels::NftLossArrays<float, float> arrays;
  arrays.v_theta = v.data();
  arrays.v_old = v_old.data();
  arrays.x0 = x0.data();
  arrays.eps = eps.data();
  arrays.t = t.data();
  arrays.r = r.data();
  arrays.gradient = gradient.data();
  arrays.batch = 2;
  arrays.elements = 4;
  const auto value = cf::kernels::nft_loss(arrays, cf::kernels::NftLossSettings{.beta = 1},
                                           cf::kernels::FixedWeighting{},
                                           {positive.data(), negative.data(), kl.data()});
  //! [kernel]
  std::cout << "loss " << value.total << ", first gradient " << gradient[0] << '\n';
  return std::abs(value.total - 0.25) < 1e-6 && gradient[0] < 0 ? 0 : 1;
}
