// The state of an optimiser that saves itself into an archive, of any values, is taken or refused.
// Parts: the values; the tensors, see safetensors_of().

#include <string_view>
#include <utility>
#include <vector>

#include <torch/optim/sgd.h>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/train/optimizer_state.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(optimizer_archive, input) {
  static const fuzz::Folder folder;
  static const at::Tensor weight = at::ones({2}).requires_grad_();
  static torch::optim::SGD optimizer(std::vector<at::Tensor>{weight},
                                     torch::optim::SGDOptions(0.1).momentum(0.9));
  const auto [values, tensors] = fuzz::parts<2>(input);
  const auto path = folder.write("optimizer.safetensors", fuzz::safetensors_of(tensors));
  contraflow::load_state(optimizer, {contraflow::read_safetensors(path).tensors,
                                     contraflow::parse_json("values", values)});
}
