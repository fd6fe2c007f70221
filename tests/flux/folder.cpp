// Folders of FLUX.1: the layout of the published ones; what is wrong is named with its file.

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/flux/flux_folder.hpp>
#include <contraflow/io/safetensors.hpp>

#include "flux/tiny_flux.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

void check_same(const torch::nn::Module& network, const fs::path& folder, const char* stem) {
  const auto own = cf::named_weights(network), written = cf::read_weights(folder, stem).tensors;
  REQUIRE(own.size() == written.size());
  for (const auto& [name, tensor] : written) CHECK(same_bits(own.at(name).detach(), tensor));
}

void change(const fs::path& file, const nlohmann::json& patch) {
  auto json = nlohmann::json::parse(read_all(file));
  json.merge_patch(patch);
  write_all(file, json.dump());
}

}  // namespace

TEST_CASE("a folder of FLUX.1 has every file that a downloaded one has") {
  CHECK(files_below(tiny::dev_folder()) ==
        std::set<std::string>{
            "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
            "text_encoder/model.safetensors", "text_encoder_2/config.json",
            "text_encoder_2/model.safetensors", "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json", "tokenizer_2/spiece.model", "tokenizer_2/tokenizer_config.json",
            "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
            "vae/config.json", "vae/diffusion_pytorch_model.safetensors"});
}

TEST_CASE("every component of a folder of FLUX.1 loads with the weights of its files") {
  constexpr const char* stem = "diffusion_pytorch_model";
  for (const fs::path& path : {tiny::dev_folder(), tiny::schnell_folder()}) {
    const cf::flux::Folder folder(path);
    const cf::flux::Model model = folder.transformer({}, 2.5);
    CHECK(model.guidance() == 2.5);
    check_same(*model.module(), path / "transformer", stem);
    check_same(*folder.clip(), path / "text_encoder", "model");
    check_same(*folder.t5(), path / "text_encoder_2", "model");
    check_same(*folder.vae({}, cf::VaeParts::both), path / "vae", stem);
    CHECK_FALSE(cf::named_weights(*folder.clip()).contains("text_projection.weight"));
    CHECK(folder.autoencoder_options().scaling_factor == 0.3611);
    CHECK(folder.t5_tokenizer(19).length() == 19);
    CHECK(folder.clip_tokenizer().pad_id() == 513);
  }
}

TEST_CASE("[dev] and [schnell] are told apart by their configurations") {
  const cf::flux::Folder dev(tiny::dev_folder()), schnell(tiny::schnell_folder());
  CHECK(dev.transformer_options().guidance_embeds);
  CHECK_FALSE(schnell.transformer_options().guidance_embeds);
  CHECK(dev.most_t5_tokens() == 512);
  CHECK(schnell.most_t5_tokens() == 256);
  CHECK(dev.grid(6, {16, 64, 64}).sigmas() == cf::flux::grid(6, 1024).sigmas());
  CHECK(schnell.grid(4, {16, 64, 64}).sigmas() == std::vector<double>{1, 0.75, 0.5, 0.25, 0});
}

TEST_CASE("what the published configuration of the transformer lacks has the published values") {
  const TemporaryDirectory directory;
  auto options = cf::flux::tiny_folder();
  options.transformer.attention_head_dim = 128;
  options.transformer.axes_dims_rope = {16, 56, 56};
  cf::flux::write_random_folder(directory.path(), options);
  const fs::path config = directory / "transformer/config.json";
  change(config, {{"axes_dims_rope", nullptr}, {"out_channels", nullptr}});
  const auto read = cf::flux::Folder(directory.path()).transformer_options();
  CHECK(read.axes_dims_rope == std::array<std::int64_t, 3>{16, 56, 56});
  CHECK(read.out_channels == 64);
  const auto fails = [&](const nlohmann::json& patch, const char* key, const char* what) {
    const std::string before = read_all(config);
    change(config, patch);
    check_error([&] { cf::flux::Folder(directory.path()).transformer_options(); },
                config.string() + ": \"" + key + "\"", what);
    write_all(config, before);
  };
  fails({{"patch_size", 2}}, "patch_size", "got 2");
  fails({{"axes_dims_rope", {64, 64}}}, "axes_dims_rope", "got 2");
  fails({{"axes_dims_rope", {16, 56, 57}}}, "axes_dims_rope", "attention_head_dim in all");
  change(config, {{"_class_name", "SD3Transformer2DModel"}});
  check_error([&] { cf::flux::Folder{directory.path()}; }, config.string() + ": \"_class_name\"",
              "FluxTransformer2DModel");
}

TEST_CASE("a scheduler of another grid is refused by file and key") {
  const TemporaryDirectory directory;
  const auto file = directory / "scheduler_config.json";
  const auto fails = [&](const nlohmann::json& settings, const std::string& key) {
    write_all(file, settings.dump());
    check_error([&] { cf::flux::grid_options(cf::Settings(file)); },
                file.string() + ": \"" + key + "\"", "expected");
  };
  fails({{"use_karras_sigmas", true}}, "use_karras_sigmas");
  fails({{"time_shift_type", "linear"}}, "time_shift_type");
  fails({{"shift_terminal", 0.1}}, "shift_terminal");
  fails({{"shift", 0}}, "shift");
  fails({{"base_image_seq_len", 9}, {"max_image_seq_len", 9}}, "max_image_seq_len");
  write_all(file, R"({"use_karras_sigmas": false, "shift_terminal": null})");
  CHECK(cf::flux::grid_options(cf::Settings(file)).shift == 1);
}

TEST_CASE("the transformer in parts loads, original files beside it are left alone") {
  const TemporaryDirectory directory;
  auto options = cf::flux::tiny_folder();
  options.shard_bytes = 200'000;
  cf::flux::write_random_folder(directory.path(), options);
  CHECK(fs::exists(directory / "transformer/diffusion_pytorch_model.safetensors.index.json"));
  CHECK(fs::exists(directory / "text_encoder_2/model-00001-of-00002.safetensors"));
  write_all(directory / "flux1-dev.safetensors", "nobody reads this");
  const cf::flux::Folder folder(directory.path());
  check_same(*folder.transformer().module(), tiny::dev_folder() / "transformer",
             "diffusion_pytorch_model");
  check_same(*folder.t5(), tiny::dev_folder() / "text_encoder_2", "model");
}

TEST_CASE("a checkpoint in the original layout is recognised") {
  const TemporaryDirectory directory;
  const auto file = directory / "flux1-dev.safetensors";
  cf::write_safetensors(file, {{"double_blocks.0.img_attn.qkv.weight", at::ones({3, 1})}});
  check_error([&] { cf::flux::Folder{file}; }, file.string(),
              "FluxPipeline.from_single_file(\"flux1-dev.safetensors\")");
}

TEST_CASE("every real name and shape is loaded strictly, and any other refused") {
  const auto listed = nlohmann::json::parse(
      read_all(std::string(CONTRAFLOW_TEST_DATA) + "/flux/real_shapes_flux.json"));
  for (const char* name : {"transformer", "transformer_schnell"}) {
    cf::FluxOptions options;
    options.guidance_embeds = std::string(name) == "transformer";
    cf::FluxNetwork network(options);
    std::map<std::string, Tensor> weights;
    for (const auto& weight : listed.at(name).items()) {
      const auto shape = weight.value().get<std::vector<std::int64_t>>();
      weights.emplace(weight.key(), cf::unfilled(shape, at::kBFloat16));
    }
    CHECK(weights.size() == (options.guidance_embeds ? 1160 : 1156));
    cf::load_weights(network, weights, "real");
    CHECK(cf::weight_count(network) == (options.guidance_embeds ? 11'901'408'320 : 11'891'178'560));
    weights.erase("proj_out.bias");
    weights.emplace("pos_embed.freqs", cf::unfilled({1}));
    check_error([&] { cf::load_weights(network, weights, "real"); }, "real",
                "missing: proj_out.bias; unexpected: pos_embed.freqs");
  }
}
