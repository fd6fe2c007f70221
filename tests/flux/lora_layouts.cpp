// Adapters of FLUX.1 by other tools: the same adapter under other names has the same bits.

#include <map>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/pipeline/lora_files.hpp>

#include "flux/tiny_flux.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

using Tensors = std::map<std::string, Tensor>;

// A layer of the original network: its name there, its inputs in the tiny network, the layers of
// diffusers that it is and the rows of B that each has. XLabs names some of them otherwise.
struct Layer {
  std::string original;
  std::int64_t inputs;
  std::vector<std::string> layers;
  std::vector<std::int64_t> rows;
  std::string xlabs = {};
};

std::vector<Layer> layers() {
  const std::string d = "transformer_blocks.1.", s = "single_transformer_blocks.0.",
                    embed = "time_text_embed.", o = "double_blocks.1.", x = o + "processor.",
                    single = "single_blocks.0.";
  return {
      {o + "img_attn.qkv",
       16,
       {d + "attn.to_q", d + "attn.to_k", d + "attn.to_v"},
       {16, 16, 16},
       x + "qkv_lora1"},
      {o + "txt_attn.qkv",
       16,
       {d + "attn.add_q_proj", d + "attn.add_k_proj", d + "attn.add_v_proj"},
       {16, 16, 16},
       x + "qkv_lora2"},
      {o + "img_attn.proj", 16, {d + "attn.to_out.0"}, {16}, x + "proj_lora1"},
      {o + "txt_attn.proj", 16, {d + "attn.to_add_out"}, {16}, x + "proj_lora2"},
      {o + "img_mlp.0", 16, {d + "ff.net.0.proj"}, {64}},
      {o + "img_mlp.2", 64, {d + "ff.net.2"}, {16}},
      {o + "txt_mlp.0", 16, {d + "ff_context.net.0.proj"}, {64}},
      {o + "txt_mlp.2", 64, {d + "ff_context.net.2"}, {16}},
      {o + "img_mod.lin", 16, {d + "norm1.linear"}, {96}},
      {o + "txt_mod.lin", 16, {d + "norm1_context.linear"}, {96}},
      {single + "linear1",
       16,
       {s + "attn.to_q", s + "attn.to_k", s + "attn.to_v", s + "proj_mlp"},
       {16, 16, 16, 64}},
      {single + "linear2", 80, {s + "proj_out"}, {16}, single + "processor.proj_lora"},
      {single + "modulation.lin", 16, {s + "norm.linear"}, {48}},
      {"img_in", 16, {"x_embedder"}, {16}},
      {"txt_in", 12, {"context_embedder"}, {16}},
      {"time_in.in_layer", 256, {embed + "timestep_embedder.linear_1"}, {16}},
      {"time_in.out_layer", 16, {embed + "timestep_embedder.linear_2"}, {16}},
      {"vector_in.in_layer", 10, {embed + "text_embedder.linear_1"}, {16}},
      {"vector_in.out_layer", 16, {embed + "text_embedder.linear_2"}, {16}},
      {"guidance_in.in_layer", 256, {embed + "guidance_embedder.linear_1"}, {16}},
      {"guidance_in.out_layer", 16, {embed + "guidance_embedder.linear_2"}, {16}},
      {"final_layer.linear", 16, {"proj_out"}, {16}},
      // A shift and a scale, in the other order than those of diffusers.
      {"final_layer.adaLN_modulation.1", 16, {"norm_out.linear"}, {32}},
  };
}

// Values of a layer: rank 2 or 3, alpha 4 to 6, and 2 or 3 where a file has none.
struct Values {
  Tensor down, up;
  double alpha;
};
Values values(std::size_t i) {
  const Layer layer = layers()[i];
  std::int64_t rows = 0;
  for (const std::int64_t own : layer.rows) rows += own;
  const std::int64_t rank = 2 + std::int64_t(i % 2);
  return {laws::floats({rank, layer.inputs}, 2 * i + 1) / 4,
          laws::floats({rows, rank}, 2 * i + 2) / 4, 4 + double(i % 3)};
}

// The adapter in the names of diffusers, by hand; or what XLabs has of it.
cf::LoraWeights expected(bool of_xlabs = false) {
  cf::LoraWeights weights;
  for (std::size_t i = 0; i < layers().size(); ++i) {
    const Layer layer = layers()[i];
    if (of_xlabs && layer.xlabs.empty()) continue;
    const Values value = values(i);
    std::int64_t first = 0;
    for (std::size_t k = 0; k < layer.layers.size(); ++k) {
      Tensor up = value.up.narrow(0, first, layer.rows[k]);
      first += layer.rows[k];
      if (layer.layers[k] == "norm_out.linear") {
        up = at::cat({up.narrow(0, 16, 16), up.narrow(0, 0, 16)});
      }
      weights.tensors[layer.layers[k] + ".lora_A.weight"] = value.down;
      weights.tensors[layer.layers[k] + ".lora_B.weight"] = up.contiguous();
      weights.alphas[layer.layers[k]] = of_xlabs ? double(value.down.size(0)) : value.alpha;
    }
  }
  return weights;
}

std::string flat(std::string name) {
  for (char& c : name) c = c == '.' ? '_' : c;
  return name;
}

Tensors original(const std::string& prefix, bool is_flat, const std::string& down,
                 const std::string& up) {
  Tensors tensors;
  for (std::size_t i = 0; i < layers().size(); ++i) {
    const std::string own = layers()[i].original, name = prefix + (is_flat ? flat(own) : own);
    const Values value = values(i);
    tensors[name + down] = value.down;
    tensors[name + up] = value.up;
    tensors[name + ".alpha"] = at::scalar_tensor(value.alpha);
  }
  return tensors;
}

Tensors xlabs() {
  Tensors tensors;
  for (std::size_t i = 0; i < layers().size(); ++i) {
    if (layers()[i].xlabs.empty()) continue;
    tensors[layers()[i].xlabs + ".down.weight"] = values(i).down;
    tensors[layers()[i].xlabs + ".up.weight"] = values(i).up;
  }
  return tensors;
}

Tensor velocity(const cf::LoraWeights& weights) {
  const cf::flux::Model model(tiny::network());
  cf::Lora lora(model.module());
  lora.add("read", weights, "test");
  lora.use("read");
  return tiny::velocity(model).detach();
}

}  // namespace

TEST_CASE("an adapter of FLUX.1 by another tool is that of peft") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  const Tensor wanted = velocity(expected()), of_xlabs = velocity(expected(true));
  CHECK(laws::relative_distance(wanted, velocity(expected(true))) > 0.01);
  const char *a = ".lora_A.weight", *b = ".lora_B.weight";
  const std::map<std::string, Tensors> written{
      {"sd-scripts", original("lora_unet_", true, ".lora_down.weight", ".lora_up.weight")},
      {"ComfyUI", original("diffusion_model.", false, ".lora_down.weight", ".lora_up.weight")},
      {"under peft's prefix", original("base_model.model.", false, a, b)},
      {"bare", original("", false, a, b)},
  };
  for (const auto& [tool, tensors] : written) {
    INFO(tool);
    cf::write_safetensors(path, tensors);
    const cf::LoraWeights read = cf::read_lora(path);
    CHECK(read.tensors.size() == expected().tensors.size());
    CHECK(same_bits(velocity(read), wanted));
  }
  cf::write_safetensors(path, xlabs());
  CHECK(same_bits(velocity(cf::read_lora(path)), of_xlabs));
}

TEST_CASE("what is no low-rank change of a layer of FLUX.1 is refused") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  const auto refuses = [&](const std::string& name, const Tensor& tensor, const std::string& part) {
    Tensors tensors = original("", false, ".lora_A.weight", ".lora_B.weight");
    tensors[name] = tensor;
    cf::write_safetensors(path, tensors);
    check_error([&] { cf::read_lora(path); }, path.string(), part);
  };
  refuses("double_blocks.0.img_attn.norm.query_norm.scale", at::ones({8}), "query_norm.scale");
  refuses("lora_unet_single_blocks_0_linear3.lora_down.weight", at::ones({2, 16}),
          "layers of Stable Diffusion 3 or FLUX.1 in kohya's names");
  refuses("single_blocks.0.linear1.lora_B.weight", at::ones({111, 2}), "4 layers in");
}
