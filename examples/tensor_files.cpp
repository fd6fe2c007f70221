// Tensors in files that other programs read: safetensors.
#include <filesystem>
#include <iostream>

#include <contraflow/io/safetensors.hpp>

namespace cf = contraflow;
using at::Tensor;

int main() {
  const std::filesystem::path path = "weights.safetensors";
  const Tensor weight = at::randn({3, 2});
  //! [io]
  cf::write_safetensors(path, {{"weight", weight}}, {{"note", "any text"}});
  const cf::SafetensorsFile file = cf::read_safetensors(path);
  //! [io]
  std::cout << file.metadata.at("note") << '\n' << file.tensors.at("weight") << '\n';
  return file.tensors.at("weight").equal(weight) ? 0 : 1;
}
