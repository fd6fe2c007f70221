// Weights: strict loading without copies, networks without memory, initial values.

#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include <catch2/catch_test_macros.hpp>
#include <unistd.h>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/weights.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

using Weights = std::map<std::string, Tensor>;

// A small tree: "first.weight", "first.bias", "deep.1.scale.weight".
class Tree : public torch::nn::Module {
 public:
  Tree()
      : first(cf::place<cf::LoraLinear>(*this, "first", 3, 2)),
        norm(cf::place<cf::RmsNorm>(*this, "deep.1.scale", 2)) {}
  Tensor forward(const Tensor& x) const { return norm->forward(first->forward(x)); }

  std::shared_ptr<cf::LoraLinear> first;
  std::shared_ptr<cf::RmsNorm> norm;
};

Weights tree_weights() {
  return {{"first.weight", laws::floats({2, 3}, 1)},
          {"first.bias", laws::floats({2}, 2)},
          {"deep.1.scale.weight", laws::floats({2}, 3)}};
}

std::int64_t resident_bytes() {
  std::int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

// The file that is mapped where a tensor has its values; empty for none.
std::string mapped_file(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    fields >> std::hex >> begin >> dash >> end;
    if (address < begin || address >= end) continue;
    const auto slash = line.find('/');
    return slash == std::string::npos ? "" : line.substr(slash);
  }
  return "";
}

}  // namespace

TEST_CASE("the published transformer is built without its memory") {
  const std::int64_t before = resident_bytes();
  const cf::MmditNetwork network(cf::MmditOptions{});
  CHECK(cf::weight_count(network) == 2'469'663'936);
  CHECK(cf::named_weights(network).size() == 909);
  CHECK(resident_bytes() - before < 64 << 20);
  for (const auto& [name, weight] : cf::named_weights(network)) {
    const bool has_memory = weight.storage().nbytes() >= std::size_t(weight.nbytes());
    if (weight.numel() > 1 && has_memory) FAIL_CHECK(name);
  }
}

TEST_CASE("weights of a mapped file are taken over without a copy") {
  const TemporaryDirectory directory;
  const auto path = directory / "tree.safetensors";
  cf::write_safetensors(path, tree_weights());
  Tree tree;
  {
    const Weights read = cf::read_safetensors(path).tensors;
    cf::load_weights(tree, read, path.string());
    for (const auto& [name, weight] : cf::named_weights(tree)) {
      CHECK(weight.const_data_ptr() == read.at(name).const_data_ptr());
    }
  }
  // The map lives as long as the network does.
  for (const auto& [name, weight] : cf::named_weights(tree)) {
    CHECK(mapped_file(weight) == path.string());
    CHECK(same_bits(weight.detach(), tree_weights().at(name)));
  }
  // Training changes the network and not the file.
  {
    const at::NoGradGuard no_gradient;
    for (Tensor& parameter : tree.parameters()) parameter.add_(1);
  }
  for (const auto& [name, tensor] : cf::read_safetensors(path).tensors) {
    CHECK(same_bits(tensor, tree_weights().at(name)));
  }
}

TEST_CASE("weights are converted where asked for, and parameters stay the same objects") {
  const TemporaryDirectory directory;
  const auto path = directory / "tree.safetensors";
  cf::write_safetensors(path, tree_weights());
  Tree tree;
  const Tensor first = tree.first->weight();
  cf::load_weights(tree, cf::read_safetensors(path).tensors, "test", {.dtype = at::kBFloat16});
  for (const auto& [name, weight] : cf::named_weights(tree)) {
    CHECK(same_bits(weight.detach(), tree_weights().at(name).to(at::kBFloat16)));
    CHECK(mapped_file(weight) != path.string());
  }
  CHECK(first.is_same(tree.first->weight()));
  CHECK(first.scalar_type() == at::kBFloat16);
  CHECK(first.requires_grad());
  cf::move_weights(tree, {.dtype = at::kDouble});
  CHECK(same_bits(tree.first->weight().detach(),
                  tree_weights().at("first.weight").to(at::kBFloat16).to(at::kDouble)));
}

TEST_CASE("an error lists every fault and leaves the network as it was") {
  Tree tree;
  cf::load_weights(tree, tree_weights(), "good");
  Weights bad = tree_weights();
  for (auto& [name, tensor] : bad) tensor = tensor + 1;
  bad.erase("first.bias");
  bad["deep.1.scale.weight"] = at::zeros({5});
  bad["another"] = at::zeros({1});
  bad["one.more"] = at::zeros({1});
  check_error([&] { cf::load_weights(tree, bad, "bad.safetensors"); }, "bad.safetensors",
              "misshapen: deep.1.scale.weight [5] instead of [2]; missing: first.bias; unexpected: "
              "another, one.more");
  for (const auto& [name, weight] : cf::named_weights(tree)) {
    CHECK(same_bits(weight.detach(), tree_weights().at(name)));
  }
  bad = tree_weights();
  bad["first.bias"] = at::zeros({2}, at::kLong);
  check_error([&] { cf::load_weights(tree, bad, "bad"); }, "bad", "not floating-point: first.bias");
  check_error([&] { cf::load_weights(tree, {}, "empty"); }, "empty",
              "missing: deep.1.scale.weight, first.bias, first.weight");
}

TEST_CASE("initial weights keep the variance of what passes through") {
  cf::MmditNetwork network(tiny::options());
  cf::Generator generator = cf::seeded(1);
  cf::initialise(network, generator);
  for (const auto& item : network.named_parameters()) {
    const Tensor& weight = item.value();
    INFO(item.key());
    CHECK(weight.isfinite().all().item<bool>());
    if (weight.numel() < 100) continue;
    const double fan_in = double(weight[0].numel());
    if (weight.dim() < 2) {
      CHECK(same_bits(weight.detach(), at::zeros(weight.sizes())));
    } else {
      CHECK(std::abs(weight.std().item<double>() * std::sqrt(fan_in) - 1) < 0.3);
    }
  }
  CHECK(same_bits(cf::initial_weight("a.bias", {3}, generator), at::zeros({3})));
  CHECK(same_bits(cf::initial_weight("a.weight", {3}, generator), at::ones({3})));
}
