// Pictures in reports: for TensorBoard, and as files.
#include <filesystem>
#include <iostream>

#include <contraflow/contraflow.hpp>
#include <contraflow/observe/picture.hpp>
#include <contraflow/observe/picture_files.hpp>
#include <contraflow/observe/tensorboard.hpp>
#include <contraflow/toy/rewards.hpp>

namespace cf = contraflow;
using cf::Tensor;

/// Where points of the plane lie, [-3, 3] on both axes, as an image [3, 96, 96].
Tensor drawn(const Tensor& x0) {
  const Tensor place = ((x0 + 3) * 16).floor().clamp(0, 95).to(at::kLong);
  const Tensor pixel = (95 - place.select(1, 1)) * 96 + place.select(1, 0);
  return (1 - at::bincount(pixel, {}, 96 * 96).div(2.0).clamp_max(1))
      .view({1, 96, 96})
      .expand({3, 96, 96});
}

int main() {
  at::set_num_threads(1);  // what so small a network takes
  auto model = cf::MlpVelocity({.dimension = 2, .width = 64, .depth = 2});
  cf::pretrain(model, cf::toy::ring(), cf::Pretraining{.steps = 500});
  auto trainer = cf::Trainer(
      cf::SnapshotPolicy(model), cf::DpmSolver<2>{}, cf::toy::InModes{{1, 4}}, cf::Nft{},
      cf::Collection{.prompts_per_epoch = 8, .group_size = 24, .grid = cf::uniform_grid(10)},
      cf::Optimization{.optimizer = cf::adamw({.learning_rate = 1e-3})});
  //! [pictures]
  const auto samples = [](auto& of_run, cf::EpochReport& report) {
    if (report.epoch % 10 != 0) return;
    report.pictures.push_back(cf::picture_of("samples", drawn(of_run.sample(2000))));
  };
  trainer.run(20, samples, cf::TensorBoard{"board"}, cf::PictureFiles{"pictures"});
  //! [pictures]
  std::int64_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator("pictures")) {
    std::cout << file.path().string() << '\n';
    ++files;
  }
  return files >= 2 ? 0 : 1;
}
