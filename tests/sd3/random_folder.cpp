// Folders with random weights: the layout of the published one.

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/io/safetensors.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "sd3/tiny_folder.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

const std::string t5 = "text_encoder_3/model";

}  // namespace

TEST_CASE("a folder has every file that a downloaded one has") {
  CHECK(files_below(tiny::shared_folder()) ==
        std::set<std::string>{"model_index.json",
                              "scheduler/scheduler_config.json",
                              "text_encoder/config.json",
                              "text_encoder/model.safetensors",
                              "text_encoder_2/config.json",
                              "text_encoder_2/model.safetensors",
                              "text_encoder_3/config.json",
                              "text_encoder_3/model.safetensors",
                              "tokenizer/merges.txt",
                              "tokenizer/special_tokens_map.json",
                              "tokenizer/tokenizer_config.json",
                              "tokenizer/vocab.json",
                              "tokenizer_2/merges.txt",
                              "tokenizer_2/special_tokens_map.json",
                              "tokenizer_2/tokenizer_config.json",
                              "tokenizer_2/vocab.json",
                              "tokenizer_3/spiece.model",
                              "tokenizer_3/tokenizer_config.json",
                              "transformer/config.json",
                              "transformer/diffusion_pytorch_model.safetensors",
                              "vae/config.json",
                              "vae/diffusion_pytorch_model.safetensors"});
}

TEST_CASE("the seed decides the weights, and nothing else does") {
  const TemporaryDirectory directory;
  cf::sd3::write_random_folder(directory / "same", cf::sd3::tiny_folder(0));
  cf::sd3::write_random_folder(directory / "other", cf::sd3::tiny_folder(1));
  for (const std::string& file : files_below(tiny::shared_folder())) {
    INFO(file);
    const std::string first = read_all(tiny::shared_folder() / file);
    CHECK(read_all(directory / "same" / file) == first);
    CHECK((read_all(directory / "other" / file) == first) == !file.ends_with("model.safetensors"));
  }
}

TEST_CASE("no weight is zero, one, or not finite, and the position table is the real one") {
  for (const std::string& file : files_below(tiny::shared_folder())) {
    if (!file.ends_with(".safetensors")) continue;
    for (const auto& [name, tensor] : cf::read_safetensors(tiny::shared_folder() / file).tensors) {
      INFO(file << ": " << name);
      CHECK(tensor.isfinite().all().item<bool>());
      CHECK(tensor.abs().max().item<double>() > 0);
      CHECK((tensor.numel() == 1 || tensor.std().item<double>() > 0));
    }
  }
  const auto shape = cf::sd3::tiny_folder().transformer;
  const auto file = tiny::shared_folder() / "transformer/diffusion_pytorch_model.safetensors";
  CHECK(same_bits(cf::read_safetensors(file).tensors.at("pos_embed.pos_embed"),
                  cf::position_table(shape)));
}

TEST_CASE("weights are written in the dtype asked for, and T5 in parts of the size asked for") {
  const TemporaryDirectory directory;
  auto options = cf::sd3::tiny_folder();
  options.dtype = at::kBFloat16;
  options.shard_bytes = 20'000;
  std::vector<std::string> told;
  cf::sd3::write_random_folder(directory.path(), options,
                               [&](const char* name) { told.emplace_back(name); });
  CHECK(told == std::vector<std::string>{"scheduler", "tokenizer", "tokenizer_2", "text_encoder",
                                         "text_encoder_2", "tokenizer_3", "text_encoder_3", "vae",
                                         "transformer"});
  const auto whole = cf::read_safetensors(tiny::shared_folder() / (t5 + ".safetensors")).tensors;
  const fs::path index = directory / (t5 + ".safetensors.index.json");
  const auto parts = cf::read_safetensors_sharded(index).tensors;
  REQUIRE(parts.size() == whole.size());
  std::uint64_t total = 0;
  for (const auto& [name, tensor] : whole) {
    CHECK(same_bits(parts.at(name), tensor.to(at::kBFloat16)));
    total += parts.at(name).nbytes();
  }
  const auto json = nlohmann::json::parse(read_all(index));
  CHECK(json.at("metadata").at("total_size") == total);
  std::set<std::string> files;
  for (const auto& entry : json.at("weight_map").items()) files.insert(entry.value());
  CHECK(files.size() > 2);
  for (const std::string& file : files) {
    CHECK(file.ends_with("-of-0000" + std::to_string(files.size()) + ".safetensors"));
    CHECK(fs::file_size(directory / ("text_encoder_3/" + file)) < 20'000 + 4'000);
  }
}

TEST_CASE("a folder without T5 says so") {
  const TemporaryDirectory directory;
  auto options = cf::sd3::tiny_folder();
  options.with_t5 = false;
  cf::sd3::write_random_folder(directory.path(), options);
  for (const std::string& file : files_below(directory.path())) {
    CHECK(file.find("_3/") == std::string::npos);
  }
  const auto index = nlohmann::json::parse(read_all(directory / "model_index.json"));
  CHECK(index.at("text_encoder_3") == nlohmann::json{nullptr, nullptr});
  CHECK(index.at("_class_name") == "StableDiffusion3Pipeline");
}

TEST_CASE("a folder that cannot be written is named") {
  const TemporaryDirectory directory;
  write_all(directory / "file", "in the way");
  CHECK_THROWS(cf::sd3::write_random_folder(directory / "file", cf::sd3::tiny_folder()));
}
