// What a user's first program may look like; each of the three projects builds it.

#include <torch/types.h>

#include <iostream>

#include <contraflow/version.hpp>

int main() {
  const at::Tensor x = torch::ones({2, 3});
  std::cout << "contraflow " << contraflow::version.major << '.' << contraflow::version.minor
            << ", a tensor of sum " << x.sum().item<float>() << '\n';
  return x.sum().item<float>() == 6 ? 0 : 1;
}
