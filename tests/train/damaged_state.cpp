// What stands in the files of a checkpoint is not trusted: what no run can have written is refused,
// and leaves a trainer as it was.

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/model/mlp.hpp>
#include <contraflow/train/checkpoint.hpp>
#include <contraflow/train/pretrain.hpp>

#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;
using cf::Tensor;
using laws::check_error;

namespace {

auto pretrainer() {
  const auto data = [](std::int64_t count, cf::Generator&) { return at::ones({count, 2}); };
  return cf::Pretrainer(cf::MlpVelocity({.dimension = 2, .width = 4, .depth = 1}), data,
                        cf::Pretraining{.steps = 1, .batch = 2});
}

// Writes the state of a checkpoint again, with one count as another text.
void set_count(const fs::path& checkpoint, const std::string& name, const std::string& text) {
  const fs::path path = checkpoint / "state.safetensors";
  cf::SafetensorsFile file = cf::read_safetensors(path);
  for (auto& [key, tensor] : file.tensors) tensor = tensor.clone();
  file.metadata[name] = text;
  cf::write_safetensors(path, file.tensors, file.metadata);
}

}  // namespace

TEST_CASE("a scale of the loss that is none is refused") {
  cf::LossScale scale(cf::LossScaleOptions{.initial = 8});
  const auto refused = [&](const Tensor& state, const std::string& part) {
    check_error([&] { scale.load(state); }, "loss_scale", part);
    CHECK(scale.factor() == 8);
  };
  refused(at::ones({1}, at::kDouble), "float64 [2]");
  refused(at::ones({}, at::kDouble), "float64 [2]");
  refused(at::ones({2}), "float64 [2]");
  refused(at::tensor({0.0, 1.0}, at::kDouble), "a factor above 0");
  refused(at::tensor({NAN, 1.0}, at::kDouble), "a factor above 0");
  refused(at::tensor({2.0, -1.0}, at::kDouble), "a count of steps");
  refused(at::tensor({2.0, 1e300}, at::kDouble), "a count of steps");
}

TEST_CASE("a state with a broken scale changes nothing of a trainer") {
  auto trainer = pretrainer();
  trainer.run_epoch();
  cf::TrainerState state = trainer.state();
  for (auto& [name, tensor] : state.tensors) tensor = tensor.detach() + 1;
  const Tensor before = trainer.policy().parameters().front().detach().clone();
  state.tensors["loss_scale"] = at::ones({3}, at::kDouble);
  check_error([&] { trainer.load(state); }, "loss_scale", "float64 [2]");
  CHECK(trainer.policy().parameters().front().equal(before));
}

TEST_CASE("a state of counts that no run has is refused") {
  auto trainer = pretrainer();
  for (const char* name : {"epoch", "gradient_steps", "forward_evaluations", "nanoseconds"}) {
    for (const std::int64_t count : {std::int64_t{-1}, std::int64_t{INT64_MAX}}) {
      cf::TrainerState state = trainer.state();
      state.counts[name] = count;
      check_error([&] { trainer.load(state); }, name, "a count of a run");
    }
  }
}

TEST_CASE("a checkpoint's counts are whole numbers, and all of each text") {
  auto trainer = pretrainer();
  const TemporaryDirectory folder;
  const fs::path checkpoint = cf::save_checkpoint(trainer, folder.path());
  const std::string state = (checkpoint / "state.safetensors").string();
  for (const char* text : {"", "3x", " 3", "3.0", "99999999999999999999"}) {
    set_count(checkpoint, "epoch", text);
    check_error([&] { cf::detail::load_whole(trainer, checkpoint); }, state,
                "a whole number as epoch");
  }
}

TEST_CASE("a checkpoint that says that it is the last of all does not hide those to come") {
  auto trainer = pretrainer();
  const TemporaryDirectory folder;
  for (const char* order : {"9223372036854775807", "-1"}) {
    const fs::path damaged = cf::save_checkpoint(trainer, folder.path());
    set_count(damaged, "order", order);
    CHECK_FALSE(cf::detail::known_checkpoint(damaged).is_readable);
    trainer.run_epoch();
    const fs::path next = cf::save_checkpoint(trainer, folder.path());
    CHECK(cf::detail::known_checkpoint(next).order == 0);
    fs::remove_all(next);
  }
}

TEST_CASE("steps of an optimiser are counts, of parameters by their numbers") {
  auto trainer = pretrainer();
  trainer.run_epoch();
  cf::OptimizerState state = cf::state_of(trainer.optimizer());
  const auto refused = [&](const std::string& index, const nlohmann::json& steps,
                           const std::string& part) {
    cf::OptimizerState bad = state;
    for (const char* name : {"exp_avg.", "exp_avg_sq."}) {
      bad.tensors[name + index] = bad.tensors.at(std::string(name) + "0");
    }
    bad.values["steps"][index] = steps;
    check_error([&] { cf::load_state(trainer.optimizer(), bad); }, "optimizer", part);
  };
  refused("0", 1.5, "a count of steps");
  refused("0", 1e300, "a count of steps");
  refused("0", -1, "a count of steps");
  refused("0", std::uint64_t(1) << 63, "a count of steps");
  for (const char* index : {"00", "0x", " 0", "-1", "99999999999999999999"}) {
    refused(index, 1, std::string("one of parameter ") + index);
  }
}

TEST_CASE("an archive of an optimiser is nested as deep as JSON may be") {
  auto trainer = pretrainer();
  const TemporaryDirectory folder;
  const fs::path checkpoint = cf::save_checkpoint(trainer, folder.path());
  const fs::path path = checkpoint / "optimizer.json";
  write_all(path, R"({"optimizer": "archive", "archive": )" + std::string(100, '[') + "}");
  check_error([&] { cf::detail::read_optimizer(checkpoint); }, path.string(), "nested at most 64");
}
