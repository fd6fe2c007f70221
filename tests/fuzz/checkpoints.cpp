// A checkpoint of any files is loaded whole or refused. Parts: optimizer.json; checksums.json;
// tensors and counts of the trainer; tensors of the optimiser, see safetensors_of().

#include <string>
#include <string_view>

#include <contraflow/model/mlp.hpp>
#include <contraflow/train/checkpoint.hpp>
#include <contraflow/train/pretrain.hpp>

#include "fuzz/harness.hpp"

namespace {

auto& trainer() {
  const auto data = [](std::int64_t count, contraflow::Generator&) {
    return at::zeros({count, 2});
  };
  static contraflow::Pretrainer made(
      contraflow::MlpVelocity({.dimension = 2, .width = 2, .depth = 1}), data,
      contraflow::Pretraining{.steps = 1, .batch = 2});
  [[maybe_unused]] static const auto report = made.run_epoch();
  return made;
}

}  // namespace

CONTRAFLOW_FUZZ_PROGRAM(checkpoints, input) {
  static const fuzz::Folder folder;
  const auto [values, sums, state, optimizer] = fuzz::parts<4>(input);
  std::filesystem::create_directory(folder.path() / "epoch-00000001");
  folder.write("epoch-00000001/optimizer.json", values);
  folder.write("epoch-00000001/checksums.json", sums);
  folder.write("epoch-00000001/state.safetensors", fuzz::safetensors_of(state));
  folder.write("epoch-00000001/optimizer.safetensors", fuzz::safetensors_of(optimizer));
  const auto checkpoints = contraflow::detail::known_checkpoints(folder.path());
  fuzz::expects_law(checkpoints.size() == 1);
  fuzz::expects_law(checkpoints[0].order >= 0 && checkpoints[0].order + 1 > checkpoints[0].order);
  static_cast<void>(contraflow::damage_of(checkpoints[0].path));
  contraflow::detail::load_whole(trainer(), checkpoints[0].path);
}
