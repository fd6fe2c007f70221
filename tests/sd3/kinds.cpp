// Stable Diffusion 3 Medium and 3.5 Large: by the same code as 3.5 Medium.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/sd3/latent_shape.hpp>
#include <contraflow/sd3/random_folder.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

struct Kind {
  const char* name;  // of its folder among the data
  cf::MmditOptions options;
  std::size_t weights;
  std::int64_t elements;
  std::size_t adapted;  // layers
};

std::vector<Kind> kinds() {
  return {{"3_medium", cf::sd3_medium(), 683, 2'084'951'104, 24 * 8 - 1},
          {"3_5_large", cf::sd35_large(), 1227, 8'146'280'768, 38 * 8 - 1}};
}

nlohmann::json data(const Kind& kind, const char* file) {
  return nlohmann::json::parse(
      read_all(std::string(CONTRAFLOW_TEST_DATA) + "/sd3_kinds/" + kind.name + "/" + file));
}

bool has_name_with(const std::map<std::string, Tensor>& weights, const std::string& part) {
  for (const auto& [name, weight] : weights) {
    if (name.find(part) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("every real name and shape of the other models is loaded strictly") {
  const TemporaryDirectory directory;
  for (const Kind& kind : kinds()) {
    INFO(kind.name);
    write_all(directory / "config.json", data(kind, "real_config.json").dump());
    const auto listed = data(kind, "real_shapes.json").at("transformer");
    std::map<std::string, Tensor> weights;
    for (const auto& weight : listed.items()) {
      const auto shape = weight.value().get<std::vector<std::int64_t>>();
      weights.emplace(weight.key(), cf::unfilled(shape, at::kBFloat16));
    }
    CHECK(weights.size() == kind.weights);
    const auto configured = cf::sd3::mmdit_options(cf::Settings(directory / "config.json"));
    for (const cf::MmditOptions& options : {configured, kind.options}) {
      cf::MmditNetwork network(options);
      cf::load_weights(network, weights, "real");
      CHECK(cf::weight_count(network) == kind.elements);
      CHECK(options.qk_norm == kind.options.qk_norm);
      CHECK(options.sample_size == 128);
      CHECK(options.width() == 64 * options.num_attention_heads);
    }
    cf::MmditNetwork network(configured);
    weights.erase("proj_out.bias");
    weights.emplace("transformer_blocks.0.attn2.to_q.weight", cf::unfilled({1}));
    check_error([&] { cf::load_weights(network, weights, "real"); }, "real",
                "missing: proj_out.bias; unexpected: transformer_blocks.0.attn2.to_q.weight");
  }
}

TEST_CASE("an adapter is on the published layers of every model") {
  for (const Kind& kind : kinds()) {
    INFO(kind.name);
    // No wider than need be.
    cf::MmditOptions options = kind.options;
    options.attention_head_dim = 4;
    options.caption_projection_dim = options.width();
    options.joint_attention_dim = options.pooled_projection_dim = options.pos_embed_max_size = 4;
    const auto network = std::make_shared<cf::MmditNetwork>(options);
    cf::Lora lora(network);
    cf::Generator generator = cf::seeded(1);
    lora.add("new", {}, generator);
    CHECK(lora.tensors("new").size() == 2 * kind.adapted);
    const TemporaryDirectory directory;
    cf::write_diffusers_lora(directory.path(), lora.weights("new"));
    lora.add("read", cf::read_lora(directory.path()), "adapter");
    CHECK(lora.tensors("read").size() == 2 * kind.adapted);
  }
}

TEST_CASE("folders of the other models are written, loaded and sampled from") {
  for (const Kind& kind : kinds()) {
    INFO(kind.name);
    const TemporaryDirectory directory;
    cf::sd3::write_random_folder(directory.path(), cf::sd3::tiny_folder(0, kind.options));
    const cf::sd3::Folder folder(directory.path());
    const cf::MmditOptions options = folder.transformer_options();
    CHECK(options.qk_norm == kind.options.qk_norm);
    CHECK(options.dual_attention_layers.empty());
    const cf::Mmdit model = folder.transformer();
    const auto weights = cf::named_weights(*model.module());
    CHECK_FALSE(has_name_with(weights, "attn2"));
    CHECK(has_name_with(weights, "norm_q") == kind.options.qk_norm);
    CHECK(has_name_with(weights, "norm_added_k") == kind.options.qk_norm);
    const auto prompts = cf::sd3::encode_prompts(folder, {"a cat", "ugly"}, {.t5_tokens = 8});
    const auto row = [&](std::int64_t i) {
      return cf::select(prompts, at::tensor({i}, at::kLong));
    };
    const auto shape = cf::sd3::latent_shape(64, 96, folder.autoencoder_options(), options);
    const auto drawn = [&](const cf::Mmdit& of) {
      cf::Generator generator = cf::seeded(0);
      return cf::sd3::generate(of, cf::sd3::image_noise(1, shape, 0), row(0), row(1), 4.5,
                               folder.grid(3), cf::DpmSolver<1>{}, generator);
    };
    const Tensor latents = drawn(model);
    CHECK(latents.isfinite().all().item<bool>());
    CHECK(same_bits(drawn(model.clone()), latents));
    CHECK(folder.vae()->decode(latents).sizes() == at::IntArrayRef{1, 3, 64, 96});
  }
}

TEST_CASE("a transformer in parts loads as one in a file") {
  const TemporaryDirectory directory;
  cf::sd3::RandomFolderOptions options = cf::sd3::tiny_folder(0, cf::sd35_large());
  cf::sd3::write_random_folder(directory / "whole", options);
  options.shard_bytes = 100'000;
  cf::sd3::write_random_folder(directory / "parts", options);
  const auto component = directory / "parts/transformer";
  CHECK(std::filesystem::exists(component / "diffusion_pytorch_model.safetensors.index.json"));
  CHECK_FALSE(std::filesystem::exists(component / "diffusion_pytorch_model.safetensors"));
  const auto weights = [&](const char* name) {
    return cf::named_weights(*cf::sd3::Folder(directory / name).transformer().module());
  };
  const auto whole = weights("whole"), parts = weights("parts");
  REQUIRE(parts.size() == whole.size());
  for (const auto& [name, weight] : whole) CHECK(same_bits(parts.at(name), weight));
}
