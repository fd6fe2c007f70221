// Adapters of other tools: the same adapter under other names has the same bits.

#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/pipeline/lora_files.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

using Tensors = std::map<std::string, Tensor>;

// A layer of the original layout: its name there, its outputs and inputs in the tiny network, and
// which rows of B belong to which layers of diffusers.
struct Layer {
  const char* original;
  std::int64_t outputs, inputs;
  std::vector<std::string> layers;
  bool is_swapped = false;
};

// Of each kind one, the width being 16.
std::vector<Layer> layers() {
  const std::string b0 = "transformer_blocks.0.", b1 = "transformer_blocks.1.",
                    b2 = "transformer_blocks.2.", time = "time_text_embed.";
  return {
      {"joint_blocks.1.x_block.attn.qkv",
       48,
       16,
       {b1 + "attn.to_q", b1 + "attn.to_k", b1 + "attn.to_v"}},
      {"joint_blocks.1.context_block.attn.qkv",
       48,
       16,
       {b1 + "attn.add_q_proj", b1 + "attn.add_k_proj", b1 + "attn.add_v_proj"}},
      {"joint_blocks.0.x_block.attn2.qkv",
       48,
       16,
       {b0 + "attn2.to_q", b0 + "attn2.to_k", b0 + "attn2.to_v"}},
      {"joint_blocks.0.x_block.attn.proj", 16, 16, {b0 + "attn.to_out.0"}},
      {"joint_blocks.0.x_block.attn2.proj", 16, 16, {b0 + "attn2.to_out.0"}},
      {"joint_blocks.0.context_block.attn.proj", 16, 16, {b0 + "attn.to_add_out"}},
      {"joint_blocks.0.x_block.mlp.fc1", 64, 16, {b0 + "ff.net.0.proj"}},
      {"joint_blocks.0.x_block.mlp.fc2", 16, 64, {b0 + "ff.net.2"}},
      {"joint_blocks.1.context_block.mlp.fc1", 64, 16, {b1 + "ff_context.net.0.proj"}},
      {"joint_blocks.1.context_block.mlp.fc2", 16, 64, {b1 + "ff_context.net.2"}},
      {"joint_blocks.0.x_block.adaLN_modulation.1", 144, 16, {b0 + "norm1.linear"}},
      {"joint_blocks.1.context_block.adaLN_modulation.1", 96, 16, {b1 + "norm1_context.linear"}},
      // The last text block has two chunks, a shift and a scale.
      {"joint_blocks.2.context_block.adaLN_modulation.1",
       32,
       16,
       {b2 + "norm1_context.linear"},
       true},
      {"final_layer.adaLN_modulation.1", 32, 16, {"norm_out.linear"}, true},
      {"final_layer.linear", 16, 16, {"proj_out"}},
      {"context_embedder", 16, 12, {"context_embedder"}},
      {"t_embedder.mlp.0", 16, 256, {time + "timestep_embedder.linear_1"}},
      {"t_embedder.mlp.2", 16, 16, {time + "timestep_embedder.linear_2"}},
      {"y_embedder.mlp.0", 16, 10, {time + "text_embedder.linear_1"}},
      {"y_embedder.mlp.2", 16, 16, {time + "text_embedder.linear_2"}},
  };
}

// Values of a layer: rank 2 or 3, alpha 4 to 6.
struct Values {
  Tensor down, up;
  double alpha;
};
Values values(std::size_t i) {
  const Layer layer = layers()[i];
  const std::int64_t rank = 2 + std::int64_t(i % 2);
  return {laws::floats({rank, layer.inputs}, 2 * i + 1) / 4,
          laws::floats({layer.outputs, rank}, 2 * i + 2) / 4, 4 + double(i % 3)};
}

// The adapter in the names of diffusers, by hand.
cf::LoraWeights expected() {
  cf::LoraWeights weights;
  for (std::size_t i = 0; i < layers().size(); ++i) {
    const Layer layer = layers()[i];
    const Values value = values(i);
    const std::int64_t rows = layer.outputs / std::int64_t(layer.layers.size());
    for (std::size_t k = 0; k < layer.layers.size(); ++k) {
      Tensor up = value.up.narrow(0, std::int64_t(k) * rows, rows).contiguous();
      if (layer.is_swapped) {
        up = at::cat({up.narrow(0, rows / 2, rows / 2), up.narrow(0, 0, rows / 2)});
      }
      weights.tensors[layer.layers[k] + ".lora_A.weight"] = value.down;
      weights.tensors[layer.layers[k] + ".lora_B.weight"] = up;
      weights.alphas[layer.layers[k]] = value.alpha;
    }
  }
  return weights;
}

std::string flat(std::string name) {
  for (char& c : name) c = c == '.' ? '_' : c;
  return name;
}

// The adapter as a tool writes it: a prefix, names, suffixes of A and B.
Tensors original(const std::string& prefix, bool is_flat, const std::string& down,
                 const std::string& up) {
  Tensors tensors;
  for (std::size_t i = 0; i < layers().size(); ++i) {
    const std::string own = layers()[i].original;
    const std::string name = prefix + (is_flat ? flat(own) : own);
    const Values value = values(i);
    tensors[name + down] = value.down;
    tensors[name + up] = value.up;
    tensors[name + ".alpha"] = at::scalar_tensor(value.alpha);
  }
  return tensors;
}
// The same, of the layers of diffusers.
Tensors renamed(const std::string& prefix, bool is_flat, const std::string& down,
                const std::string& up) {
  Tensors tensors;
  const cf::LoraWeights weights = expected();
  for (const auto& [layer, alpha] : weights.alphas) {
    const std::string name = prefix + (is_flat ? flat(layer) : layer);
    tensors[name + down] = weights.tensors.at(layer + ".lora_A.weight");
    tensors[name + up] = weights.tensors.at(layer + ".lora_B.weight");
    tensors[name + ".alpha"] = at::scalar_tensor(alpha);
  }
  return tensors;
}

Tensor velocity(const cf::LoraWeights& weights) {
  cf::Mmdit model = tiny::mmdit();
  cf::Lora lora(model.module());
  lora.add("read", weights, "test");
  lora.use("read");
  return tiny::velocity(model).detach();
}

}  // namespace

TEST_CASE("an adapter of kohya's tools or of the original layout is that of peft") {
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory / "peft", expected());
  const Tensor wanted = velocity(cf::read_lora(directory / "peft"));
  CHECK(laws::relative_distance(wanted, tiny::velocity(tiny::mmdit()).detach()) > 0.01);
  const auto path = directory / "lora.safetensors";
  const char *a = ".lora_A.weight", *b = ".lora_B.weight";
  const char *down = ".lora_down.weight", *up = ".lora_up.weight";
  const std::map<std::string, Tensors> written{
      {"sd-scripts", original("lora_unet_", true, down, up)},
      {"original, of diffusers' name", original("transformer.", false, a, b)},
      {"ComfyUI", original("diffusion_model.", false, a, b)},
      {"whole file", original("model.diffusion_model.", false, down, up)},
      {"bare", original("", false, a, b)},
      {"flat names of diffusers", renamed("lora_transformer_", true, down, up)},
      {"the same for a unet", renamed("lora_unet_", true, down, up)},
      {"older diffusers", renamed("transformer.", false, ".lora.down.weight", ".lora.up.weight")},
      {"bare names of diffusers", renamed("", false, a, b)},
      {"peft without a folder", renamed("base_model.model.", false, a, b)},
  };
  for (const auto& [tool, tensors] : written) {
    INFO(tool);
    cf::write_safetensors(path, tensors);
    const cf::LoraWeights read = cf::read_lora(path);
    CHECK(read.tensors.size() == expected().tensors.size());
    CHECK(same_bits(velocity(read), wanted));
  }
}

TEST_CASE("without an alpha of its own a joined layer has its rank, as its parts have") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  const std::string name = "lora_unet_joint_blocks_1_x_block_attn_qkv";
  cf::write_safetensors(path, {{name + ".lora_down.weight", laws::floats({2, 16})},
                               {name + ".lora_up.weight", laws::floats({48, 2})}});
  const cf::LoraWeights read = cf::read_lora(path);
  for (const char* layer : {"to_q", "to_k", "to_v"}) {
    CHECK(read.alpha_of(std::string("transformer_blocks.1.attn.") + layer) == 2);
  }
}

TEST_CASE("parts of text encoders are left out only when that is said") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  for (const std::string encoder :
       {"lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te3_encoder_block_0_layer_0_wi",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1", "text_encoders.t5xxl.shared",
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"}) {
    Tensors tensors = original("lora_unet_", true, ".lora_down.weight", ".lora_up.weight");
    tensors[encoder + ".lora_down.weight"] = at::ones({1, 2});
    cf::write_safetensors(path, tensors);
    check_error([&] { cf::read_lora(path); }, path.string(),
                "one of a text encoder, " + encoder + ".lora_down.weight");
    const auto read = cf::read_lora(path, cf::EncoderParts::leave_out);
    CHECK(read.tensors.size() == expected().tensors.size());
  }
  cf::write_safetensors(path, {{"lora_te1_a.lora_down.weight", at::ones({1, 2})}});
  check_error([&] { cf::read_lora(path, cf::EncoderParts::leave_out); }, path.string(),
              "an adapter");
}

TEST_CASE("a file of peft is read with the configuration beside it") {
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory.path(), expected());
  const auto file = directory / "adapter_model.safetensors";
  CHECK(same_bits(velocity(cf::read_lora(file)), velocity(expected())));
}

TEST_CASE("a layer whose name is the end of another's keeps its own scale and rank") {
  // As peft has it: the first pattern counts that is a layer's name, or its end behind a dot.
  const auto value_of = [](const nlohmann::ordered_json& pattern, const std::string& module,
                           double other) {
    for (const auto& [name, value] : pattern.items()) {
      if (module == name || module.ends_with("." + name)) return value.get<double>();
    }
    return other;
  };
  const std::string root = "proj_out", block = "single_transformer_blocks.";
  const std::map<std::string, std::pair<std::int64_t, double>> layers{
      {root, {2, 1}},
      {block + "0.proj_out", {4, 4}},
      {block + "1.proj_out", {4, 16}},
      {block + "0.attn.to_q", {4, 16}},
      {block + "1.attn.to_q", {3, 16}}};
  cf::LoraWeights weights{{}, 16, {}};
  for (const auto& [module, of] : layers) {
    weights.tensors[module + ".lora_A.weight"] = at::ones({of.first, 8});
    weights.tensors[module + ".lora_B.weight"] = at::ones({8, of.first});
    if (of.second != 16) weights.alphas[module] = of.second;
  }
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory.path(), weights);
  std::ifstream file(directory / "adapter_config.json");
  const auto config = nlohmann::ordered_json::parse(file);
  const cf::LoraWeights read = cf::read_lora(directory.path());
  for (const auto& [module, of] : layers) {
    INFO(module);
    CHECK(value_of(config.at("rank_pattern"), module, config.at("r")) == double(of.first));
    CHECK(value_of(config.at("alpha_pattern"), module, config.at("lora_alpha")) == of.second);
    CHECK(read.alpha_of(module) == of.second);
  }

  // Patterns count in the order of the file, which is not that of their names.
  cf::write_file(directory / "adapter_config.json",
                 R"({"lora_alpha": 16, "alpha_pattern": {"0.proj_out": 4, "proj_out": 1}})");
  const cf::LoraWeights longest_first = cf::read_lora(directory.path());
  CHECK(longest_first.alpha_of(block + "0.proj_out") == 4);
  CHECK(longest_first.alpha_of(root) == 1);
  cf::write_file(directory / "adapter_config.json",
                 R"({"lora_alpha": 16, "alpha_pattern": {"proj_out": 1, "0.proj_out": 4}})");
  CHECK(cf::read_lora(directory.path()).alpha_of(block + "0.proj_out") == 1);
}

TEST_CASE("an adapter of another kind, or of numbers that are none, is refused") {
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory.path(), expected());
  const auto config = directory / "adapter_config.json";
  nlohmann::json settings = cf::read_json(config);
  settings["peft_type"] = "LOHA";
  cf::write_json(config, settings);
  check_error([&] { cf::read_lora(directory.path()); }, config.string(),
              "expected peft_type LORA, got \"LOHA\"");

  const auto path = directory / "lora.safetensors";
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    for (const char* end : {"to_q.alpha", "to_k.lora_A.weight"}) {
      Tensors tensors;
      for (const auto& [name, tensor] : expected().tensors) tensors["transformer." + name] = tensor;
      const std::string name = std::string("transformer_blocks.1.attn.") + end;
      Tensor& broken = tensors["transformer." + name];
      broken = broken.defined() ? broken.clone() : at::zeros({1});
      broken.view(-1)[0] = bad;
      cf::write_safetensors(path, tensors);
      check_error([&] { cf::read_lora(path); }, path.string(), "expected finite numbers");
    }
  }
}

TEST_CASE("an adapter in 8 bits is read, and what is no number in it refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  Tensors eight, wide;
  for (const auto& [name, tensor] :
       original("diffusion_model.", false, ".lora_A.weight", ".lora_B.weight")) {
    eight[name] = tensor.to(at::kFloat8_e4m3fn);
    wide[name] = eight[name].to(at::kFloat);
  }
  cf::write_safetensors(path, wide);
  const Tensor wanted = velocity(cf::read_lora(path));
  cf::write_safetensors(path, eight);
  CHECK(same_bits(velocity(cf::read_lora(path)), wanted));

  Tensor& broken = eight.at("diffusion_model.final_layer.linear.lora_A.weight");
  broken = at::full(broken.sizes(), std::nan("")).to(at::kFloat8_e4m3fn);
  cf::write_safetensors(path, eight);
  check_error([&] { cf::read_lora(path); }, path.string(), "expected finite numbers");
}

TEST_CASE("what is no part of a layer, or a layer twice, is refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  const auto refuses = [&](const Tensors& more, const std::string& part) {
    Tensors tensors = original("lora_unet_", true, ".lora_down.weight", ".lora_up.weight");
    for (const auto& [name, tensor] : more) tensors[name] = tensor;
    cf::write_safetensors(path, tensors);
    check_error([&] { cf::read_lora(path); }, path.string(), part);
  };
  const std::string q = "transformer_blocks.1.attn.to_q.lora_A.weight";
  refuses({{"transformer." + q, at::ones({2, 16})}}, q + " in two layouts");
  refuses({{"diffusion_model.final_layer.linear.lora_A.weight", at::ones({2, 16})},
           {"model.diffusion_model.final_layer.linear.lora_A.weight", at::ones({2, 16})}},
          "in two layouts");
  refuses({{"lora_unet_joint_blocks_1_x_block_attn_qkv.lora_up.weight", at::ones({47, 2})}},
          "3 layers in joint_blocks_1_x_block_attn_qkv.lora_B.weight");
  for (const char* name :
       {"lora_unet_joint_blocks_1_x_block_attn_qk", "lora_unet_joint_blocks_x_block_attn_qkv",
        "lora_unet_joint_blocks_1", "lora_unet_x_embedder_proj", "lora_unet_double_blocks_0_a"}) {
    refuses({{std::string(name) + ".lora_down.weight", at::ones({1, 2})}},
            std::string("kohya's names, got ") + name);
  }
}
