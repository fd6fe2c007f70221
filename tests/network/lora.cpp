// Adapters: what they change, what they leave alone, and their files.

#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <torch/nn/modules/linear.h>

#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/lora_files.hpp>

#include "laws/errors.hpp"
#include "network/tiny_mmdit.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

const cf::LoraOptions small{.rank = 2, .alpha = 6};

// An adapter whose factors are both not zero.
void add_random(cf::Lora& lora, const std::string& name, std::uint64_t seed = 1,
                const cf::LoraOptions& options = small) {
  cf::Generator generator = cf::seeded(seed);
  lora.add(name, options, generator);
  for (Tensor& tensor : lora.parameters(name)) tensor.copy_(cf::normal_like(tensor, generator) / 3);
}

// A network with an adapter, and its velocities.
struct Adapted {
  cf::Mmdit model = tiny::mmdit();
  cf::Lora lora{model.module()};

  Tensor velocity(const std::optional<std::string>& name) {
    return lora.with(name, [&] { return tiny::velocity(model).detach(); });
  }
};

std::set<std::string> modules_of(const cf::Lora& lora, const std::string& name) {
  std::set<std::string> modules;
  for (const auto& [key, tensor] : lora.tensors(name))
    modules.insert(key.substr(0, key.find(".lora_")));
  return modules;
}

}  // namespace

TEST_CASE("a fresh adapter changes nothing, and one with values does") {
  Adapted net;
  const Tensor base = net.velocity({});
  cf::Generator generator = cf::seeded(1);
  net.lora.add("fresh", small, generator);
  CHECK(same_bits(net.velocity("fresh"), base));
  add_random(net.lora, "random");
  CHECK(relative_distance(net.velocity("random"), base) > 0.01);
  CHECK(same_bits(net.velocity({}), base));
  CHECK(net.lora.names() == std::vector<std::string>{"fresh", "random"});
}

TEST_CASE("a fresh adapter is as published: A normal with deviation 1 / r, B zero, float32") {
  const auto network = tiny::network();
  cf::move_weights(*network, {.dtype = at::kBFloat16});
  cf::Lora lora(network);
  cf::Generator generator = cf::seeded(1);
  lora.add("fresh", {.rank = 8, .alpha = 16}, generator);
  std::vector<Tensor> downs;
  for (const auto& [name, tensor] : lora.tensors("fresh")) {
    CHECK(tensor.scalar_type() == at::kFloat);
    if (name.ends_with(".lora_B.weight")) CHECK(same_bits(tensor, at::zeros({16, 8})));
    if (name.ends_with(".lora_A.weight")) downs.push_back(tensor.flatten());
  }
  const Tensor all = at::cat(downs);
  CHECK(std::abs(all.std().item<double>() * 8 - 1) < 0.1);
  CHECK(std::abs(all.mean().item<double>() * 8) < 0.1);
}

TEST_CASE("the published adapter has 191 layers and 18.8 million values") {
  cf::Lora lora(std::make_shared<cf::MmditNetwork>(cf::MmditOptions{}));
  cf::Generator generator = cf::seeded(1);
  lora.add("published", {}, generator);
  std::int64_t values = 0;
  for (const Tensor& tensor : lora.parameters("published")) values += tensor.numel();
  CHECK(values == 18'776'064);
  const auto modules = modules_of(lora, "published");
  CHECK(modules.size() == 191);
  for (const std::string& module : modules) CHECK(module.find("attn2") == std::string::npos);
}

TEST_CASE("targets are whole names or what follows a dot") {
  const auto adapted = [](std::vector<std::string> targets) {
    cf::Lora lora(tiny::network());
    cf::Generator generator = cf::seeded(1);
    lora.add("any", {.rank = 1, .targets = std::move(targets)}, generator);
    return modules_of(lora, "any");
  };
  const std::string block = "transformer_blocks.0.";
  CHECK(adapted({"0.attn.to_q"}) == std::set{block + "attn.to_q"});
  CHECK(adapted({"attn2.to_q"}) == std::set{block + "attn2.to_q"});
  CHECK(adapted({"proj_out"}) == std::set<std::string>{"proj_out"});
  CHECK(adapted({"to_q"}).size() == 4);
  CHECK(adapted({"attn.to_q"}).size() == 3);
  check_error([&] { adapted({"tn.to_q", "to"}); }, "targets", "got tn.to_q, to");
  check_error([&] { adapted({}); }, "targets", "got none");
}

TEST_CASE("an adapter is the change alpha / r B A of each weight") {
  Adapted net;
  add_random(net.lora, "random");
  const Tensor adapted = net.velocity("random");
  const auto tensors = net.lora.tensors("random");
  const auto weights = cf::named_weights(*net.model.module());
  const at::NoGradGuard no_gradient;
  for (const std::string& module : modules_of(net.lora, "random")) {
    const Tensor change =
        at::mm(tensors.at(module + ".lora_B.weight"), tensors.at(module + ".lora_A.weight"));
    Tensor(weights.at(module + ".weight")).add_(change, small.alpha / double(small.rank));
  }
  CHECK(relative_distance(net.velocity({}), adapted) < 1e-5);
}

TEST_CASE("scales: 0 is the base, 1 the adapter, each layer by itself") {
  Adapted net;
  add_random(net.lora, "random");
  const Tensor base = net.velocity({}), adapted = net.velocity("random");
  net.lora.set_scale("random", 0);
  CHECK(same_bits(net.velocity("random"), base));
  net.lora.set_scale("random", 1);
  CHECK(same_bits(net.velocity("random"), adapted));
  // The last layer is linear in its scale.
  add_random(net.lora, "last", 2, {.rank = 2, .alpha = 6, .targets = {"proj_out"}});
  const Tensor whole = net.velocity("last") - base;
  net.lora.set_scale("last", -0.5);
  CHECK(relative_distance(net.velocity("last") - base, -0.5 * whole) < 1e-4);
  // All layers but one switched off are an adapter of that layer.
  const std::string kept = "transformer_blocks.1.attn.to_k";
  cf::LoraWeights one{{}, small.alpha};
  for (const auto& [name, tensor] : net.lora.tensors("random")) {
    if (name.starts_with(kept)) one.tensors.emplace(name, tensor);
  }
  net.lora.add("one", one, "test");
  for (const std::string& module : modules_of(net.lora, "random")) {
    if (module != kept) net.lora.set_scale("random", module, 0);
  }
  CHECK(same_bits(net.velocity("random"), net.velocity("one")));
  CHECK_FALSE(same_bits(net.velocity("one"), base));
  net.lora.set_scale("random", kept, 2);
  net.lora.set_scale("one", 2);
  CHECK(same_bits(net.velocity("random"), net.velocity("one")));
  // The scale is how it is used and not part of its values.
  CHECK(net.lora.weights("one").alpha == small.alpha);
  check_error([&] { net.lora.set_scale("one", "proj_out", 1); }, "module", "got proj_out");
  check_error([&] { net.lora.set_scale("none", 1); }, "name", "got none");
}

TEST_CASE("a copy has values of its own") {
  Adapted net;
  add_random(net.lora, "first");
  net.lora.copy("first", "second");
  const Tensor before = net.velocity("first");
  CHECK(same_bits(net.velocity("second"), before));
  for (Tensor& tensor : net.lora.parameters("first")) tensor.add_(0.1);
  CHECK(same_bits(net.velocity("second"), before));
  CHECK_FALSE(same_bits(net.velocity("first"), before));
}

TEST_CASE("the adapter in use is the one of before again, also after an exception") {
  Adapted net;
  add_random(net.lora, "a", 1);
  add_random(net.lora, "b", 2);
  net.lora.use("a");
  const Tensor a = tiny::velocity(net.model).detach();
  CHECK(same_bits(a, net.velocity("a")));
  CHECK_FALSE(same_bits(a, net.velocity("b")));
  CHECK(same_bits(tiny::velocity(net.model).detach(), a));
  const auto fails = [&] { net.lora.with("b", []() -> int { throw std::runtime_error("any"); }); };
  CHECK_THROWS_AS(fails(), std::runtime_error);
  CHECK(same_bits(tiny::velocity(net.model).detach(), a));
  check_error([&] { net.lora.use("c"); }, "name", "got c");
  net.lora.use({});
  CHECK(same_bits(tiny::velocity(net.model).detach(), net.velocity({})));
}

TEST_CASE("only the adapter in use is trained") {
  Adapted net;
  cf::set_trainable(*net.model.module(), false);
  add_random(net.lora, "trained", 1);
  add_random(net.lora, "other", 2);
  for (const char* name : {"trained", "other"}) net.lora.set_trainable(name, true);
  net.lora.with("trained", [&] { tiny::velocity(net.model).sum().backward(); });
  for (const Tensor& weight : net.model.module()->parameters())
    CHECK_FALSE(weight.grad().defined());
  for (const Tensor& tensor : net.lora.parameters("other")) CHECK_FALSE(tensor.grad().defined());
  int zero = 0;
  for (const auto& [name, tensor] : net.lora.tensors("trained")) {
    const bool has_gradient =
        tensor.grad().defined() && tensor.grad().abs().max().item<float>() > 0;
    zero += !has_gradient;
    // The text's queries of the last block reach nothing.
    if (!has_gradient) CHECK(name.find("blocks.2.attn.add_q_proj") != std::string::npos);
  }
  CHECK(zero == 2);
}

TEST_CASE("a base in half precision takes an adapter in float32") {
  Adapted net;
  const Tensor full = net.velocity({});
  add_random(net.lora, "random");
  const Tensor adapted = net.velocity("random");
  cf::move_weights(*net.model.module(), {.dtype = at::kBFloat16});
  CHECK(net.velocity({}).scalar_type() == at::kFloat);
  CHECK(relative_distance(net.velocity({}), full) < 0.05);
  CHECK(relative_distance(net.velocity("random"), adapted) < 0.05);
  net.lora.set_trainable("random", true);
  net.lora.with("random", [&] { tiny::velocity(net.model).sum().backward(); });
  CHECK(net.lora.parameters("random")[0].grad().scalar_type() == at::kFloat);
}

TEST_CASE("what does not fit a network is listed, every name") {
  Adapted net;
  add_random(net.lora, "good");
  cf::LoraWeights bad = net.lora.weights("good");
  const std::string block = "transformer_blocks.1.attn.";
  bad.tensors[block + "to_q.lora_A.weight"] = at::zeros({2, 5});
  bad.tensors[block + "to_k.lora_B.weight"] = at::zeros({16, 3});
  bad.tensors.erase(block + "to_v.lora_A.weight");
  bad.tensors["nowhere.lora_A.weight"] = at::zeros({2, 16});
  bad.tensors["proj_out.magnitude"] = at::zeros({2});
  const auto add = [&] { net.lora.add("bad", bad, "file"); };
  check_error(add, "file", "missing: " + block + "to_v.lora_A.weight");
  check_error(add, "file", block + "to_q.lora_A.weight [2, 5]");
  check_error(add, "file", block + "to_k.lora_B.weight [16, 3]");
  check_error(add, "file", "unexpected: nowhere.lora_A.weight, proj_out.magnitude");
  CHECK_FALSE(net.lora.has("bad"));
  check_error([&] { net.lora.add("bad", cf::LoraWeights{}, "file"); }, "file", "missing: every");
  // A network of another width and of more blocks.
  cf::MmditOptions other = tiny::options();
  other.num_layers = 4;
  other.attention_head_dim = 16;
  other.caption_projection_dim = 32;
  cf::Lora larger(tiny::network(1, other));
  check_error([&] { larger.add("any", net.lora.weights("good"), "file"); }, "file",
              "misshapen: transformer_blocks.0.attn.add_k_proj.lora_A.weight [2, 16]");
  add_random(larger, "larger");
  check_error([&] { net.lora.add("any", larger.weights("larger"), "file"); }, "file",
              "transformer_blocks.3.attn.add_k_proj.lora_A.weight");
  cf::Generator generator = cf::seeded(1);
  check_error([&] { net.lora.add("good", small, generator); }, "name", "got good");
  check_error([&] { net.lora.add("bad", {.rank = 0}, generator); }, "rank", "got 0");
  // Nothing of what was refused is left behind.
  CHECK(net.lora.names() == std::vector<std::string>{"good"});
  add_random(net.lora, "second", 2);
  CHECK_FALSE(same_bits(net.velocity("second"), net.velocity("good")));
}

TEST_CASE("a linear layer without room for adapters is refused by name") {
  auto tree = std::make_shared<torch::nn::Module>();
  cf::place(*tree, "a.linear", std::make_shared<torch::nn::LinearImpl>(2, 2));
  cf::place(*tree, "b.linear", std::make_shared<cf::LoraLinear>(2, 2));
  cf::Lora lora(tree);
  cf::Generator generator = cf::seeded(1);
  check_error([&] { lora.add("any", {.targets = {"linear"}}, generator); }, "a.linear",
              "contraflow::LoraLinear");
  lora.add("any", {.rank = 1, .targets = {"b.linear"}}, generator);
  CHECK(lora.tensors("any").size() == 2);
}

TEST_CASE("files in both formats give the adapter back") {
  Adapted net;
  add_random(net.lora, "written");
  const cf::LoraWeights weights = net.lora.weights("written");
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory / "peft", weights);
  cf::write_diffusers_lora(directory / "diffusers", weights);

  const cf::LoraWeights peft = cf::read_lora(directory / "peft");
  CHECK(peft.alpha == small.alpha);
  REQUIRE(peft.tensors.size() == weights.tensors.size());
  for (const auto& [name, tensor] : weights.tensors)
    CHECK(same_bits(peft.tensors.at(name), tensor));

  // The scale is in B, so that no release of diffusers has to know alpha.
  const cf::LoraWeights diffusers = cf::read_lora(directory / "diffusers");
  CHECK(diffusers.alpha == double(small.rank));
  for (const auto& [name, tensor] : weights.tensors) {
    const double factor = name.ends_with(".lora_B.weight") ? 3 : 1;
    CHECK(same_bits(diffusers.tensors.at(name), tensor * factor));
  }
  const auto file =
      cf::read_safetensors(directory / "diffusers" / "pytorch_lora_weights.safetensors");
  CHECK(file.tensors.begin()->first.starts_with("transformer.transformer_blocks."));
  CHECK_FALSE(file.metadata.contains("lora_adapter_metadata"));

  net.lora.add("peft", peft, "peft");
  net.lora.add("diffusers", diffusers, "diffusers");
  CHECK(same_bits(net.velocity("peft"), net.velocity("written")));
  CHECK(relative_distance(net.velocity("diffusers"), net.velocity("written")) < 1e-5);
  // One file, without its folder.
  const auto alone = cf::read_lora(directory / "diffusers" / "pytorch_lora_weights.safetensors");
  CHECK(alone.tensors.size() == weights.tensors.size());
}

TEST_CASE("the configuration has the keys that every release of peft knows") {
  cf::Lora lora(tiny::network());
  add_random(lora, "any");
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory.path(), lora.weights("any"));
  const auto config = nlohmann::json::parse(read_all(directory / "adapter_config.json"));
  std::set<std::string> keys;
  for (const auto& entry : config.items()) keys.insert(entry.key());
  CHECK(keys == std::set<std::string>{"peft_type", "r", "lora_alpha", "lora_dropout", "bias",
                                      "fan_in_fan_out", "inference_mode", "init_lora_weights",
                                      "target_modules", "base_model_name_or_path", "task_type"});
  CHECK(config.at("r") == 2);
  CHECK(config.at("lora_alpha") == 6);
  CHECK(config.at("target_modules").get<std::set<std::string>>() == modules_of(lora, "any"));
}

TEST_CASE("alpha comes from the configuration, else from the metadata, else it is the rank") {
  cf::Lora lora(tiny::network());
  add_random(lora, "any");
  const TemporaryDirectory directory;
  const auto write = [&](const std::map<std::string, std::string>& metadata) {
    std::map<std::string, Tensor> tensors;
    for (const auto& [name, tensor] : lora.tensors("any")) {
      tensors.emplace("transformer." + name, tensor);
    }
    cf::write_safetensors(directory / "lora.safetensors", tensors, metadata);
    return directory / "lora.safetensors";
  };
  CHECK(cf::read_lora(write({})).alpha == 2);
  CHECK(cf::read_lora(write({{"format", "pt"}})).alpha == 2);
  const auto described = [&](const std::string& text) {
    return write({{"lora_adapter_metadata", text}});
  };
  CHECK(cf::read_lora(described(R"({"transformer.lora_alpha": 7.5})")).alpha == 7.5);
  CHECK(cf::read_lora(described(R"({"transformer.r": 2})")).alpha == 2);
  const std::string path = (directory / "lora.safetensors").string();
  const auto refused = [&](const std::string& text, const std::string& part) {
    described(text);
    check_error([&] { cf::read_lora(path); }, path, part);
  };
  refused("{", "JSON");
  refused("[]", "a JSON object");
  refused(R"({"transformer.lora_alpha": "7"})", "a number as lora_alpha");
  refused(R"({"transformer.use_dora": true})", "use_dora false");
  refused(R"({"transformer.init_lora_weights": "pissa_niter_4"})", "init_lora_weights pissa");
  refused(R"({"transformer.alpha_pattern": [1]})", "an object as alpha_pattern");
  refused(R"({"transformer.alpha_pattern": {"a": "1"}})", "a number as alpha_pattern of a");
  refused(R"({"transformer.alpha_pattern": {"(": 1}})", "regular expressions");
}

namespace {

// An adapter of two layers, of ranks 8 and 2.
std::map<std::string, Tensor> unequal_ranks() {
  return {{"transformer_blocks.0.attn.to_q.lora_A.weight", laws::floats({8, 16}, 1)},
          {"transformer_blocks.0.attn.to_q.lora_B.weight", laws::floats({16, 8}, 2)},
          {"transformer_blocks.1.attn.to_v.lora_A.weight", laws::floats({2, 16}, 3)},
          {"transformer_blocks.1.attn.to_v.lora_B.weight", laws::floats({16, 2}, 4)}};
}
const char* const q = "transformer_blocks.0.attn.to_q";
const char* const v = "transformer_blocks.1.attn.to_v";

// The change of a layer's weight.
Tensor change(const cf::LoraWeights& weights, const std::string& module) {
  const Tensor down = weights.tensors.at(module + ".lora_A.weight");
  return weights.tensors.at(module + ".lora_B.weight").matmul(down) *
         (weights.alpha_of(module) / double(down.size(0)));
}

}  // namespace

TEST_CASE("each layer of an adapter has a scale of its own") {
  const TemporaryDirectory directory;
  const auto path = directory / "lora.safetensors";
  const auto read = [&](const std::string& metadata, std::map<std::string, Tensor> more = {}) {
    for (const auto& [name, tensor] : unequal_ranks()) more.emplace("transformer." + name, tensor);
    std::map<std::string, std::string> all;
    if (!metadata.empty()) all.emplace("lora_adapter_metadata", metadata);
    cf::write_safetensors(path, more, all);
    return cf::read_lora(path);
  };
  const auto alphas = [](const cf::LoraWeights& weights) {
    return std::pair(weights.alpha_of(q), weights.alpha_of(v));
  };
  CHECK(alphas(read("")) == std::pair(8.0, 2.0));
  CHECK(alphas(read(R"({"transformer.lora_alpha": 4})")) == std::pair(4.0, 4.0));
  CHECK(alphas(read(R"({"transformer.lora_alpha": 4, "transformer.alpha_pattern":
                        {"attn.to_v": 6}})")) == std::pair(4.0, 6.0));
  CHECK(alphas(read(R"({"transformer.lora_alpha": 4, "transformer.alpha_pattern":
                        {"transformer_blocks.[01].attn.to_q": 3}})")) == std::pair(3.0, 4.0));
  // The end of a name begins at a dot.
  CHECK(alphas(read(R"({"transformer.lora_alpha": 4, "transformer.alpha_pattern":
                        {"o_v": 6}})")) == std::pair(4.0, 4.0));
  // alpha / sqrt(r) is the scale.
  const auto stabilised = read(R"({"transformer.lora_alpha": 4, "transformer.use_rslora": true})");
  CHECK(std::abs(stabilised.alpha_of(q) / 8 - 4 / std::sqrt(8)) < 1e-12);
  CHECK(std::abs(stabilised.alpha_of(v) / 2 - 4 / std::sqrt(2)) < 1e-12);
  // What the file itself says of a layer.
  CHECK(alphas(read("", {{std::string("transformer.") + v + ".alpha", at::full({}, 5.0)}})) ==
        std::pair(8.0, 5.0));
}

TEST_CASE("adapters of unequal ranks and alphas are written for both readers") {
  const cf::LoraWeights weights{unequal_ranks(), 4, {{v, 6}}};
  const TemporaryDirectory directory;
  cf::write_peft_lora(directory / "peft", weights);
  cf::write_diffusers_lora(directory / "diffusers", weights);
  const auto config = nlohmann::json::parse(read_all(directory / "peft" / "adapter_config.json"));
  CHECK(config.at("r") == 8);
  CHECK(config.at("rank_pattern") == nlohmann::json{{v, 2}});
  CHECK(config.at("alpha_pattern") == nlohmann::json{{v, 6.0}});
  for (const char* folder : {"peft", "diffusers"}) {
    const cf::LoraWeights read = cf::read_lora(directory / folder);
    for (const char* module : {q, v}) {
      INFO(folder << " " << module);
      CHECK(relative_distance(change(read, module), change(weights, module)) < 1e-6);
    }
  }
  // One rank and no alpha, so that it cannot be read at another scale.
  const cf::LoraWeights diffusers = cf::read_lora(directory / "diffusers");
  for (const char* module : {q, v}) {
    CHECK(diffusers.tensors.at(std::string(module) + ".lora_A.weight").size(0) == 8);
  }
}

TEST_CASE("an adapter keeps the scale of each layer, and set_scale multiplies it") {
  Adapted net;
  add_random(net.lora, "one");
  cf::LoraWeights weights = net.lora.weights("one");
  const std::string first = *modules_of(net.lora, "one").begin();
  weights.alphas = {{first, 2 * weights.alpha}};
  net.lora.add("two", weights, "two");
  CHECK(net.lora.weights("two").alphas == weights.alphas);
  net.lora.set_scale("one", first, 2);
  CHECK(same_bits(net.velocity("two"), net.velocity("one")));
  net.lora.set_scale("two", 0.5);
  net.lora.set_scale("one", 0.5);
  net.lora.set_scale("one", first, 1);
  CHECK(same_bits(net.velocity("two"), net.velocity("one")));
}

TEST_CASE("files that are no adapter of a transformer are refused") {
  const TemporaryDirectory directory;
  const auto path = (directory / "lora.safetensors").string();
  const auto written = [&](const std::map<std::string, Tensor>& tensors) {
    cf::write_safetensors(path, tensors);
    return path;
  };
  check_error(
      [&] {
        cf::read_lora(written({{"text_encoder.a.lora_A.weight", at::ones({1, 2})}}));
      },
      path, "one of a text encoder, text_encoder.a.lora_A.weight");
  const std::map<std::string, std::string> other_tools{
      {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
       "layers of Stable Diffusion 3 or FLUX.1 in kohya's names"},
      {"unet.down_blocks.0.attn.to_q.lora_A.weight", "names of diffusers, peft or kohya"},
      {"lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha", "one of a text encoder"},
      {"lora_unet_joint_blocks_0_x_block_attn_qkv.hada_w1_a", "LoHa's"},
      {"lora_unet_joint_blocks_0_x_block_attn_qkv.lokr_w1", "LoKr's"},
      {"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_mid.weight", "LoCon's"},
      {"diffusion_model.joint_blocks.0.x_block.attn.qkv.diff", "a change of whole weights"},
      {"transformer.a.lora_magnitude_vector", "DoRA's"},
      {"transformer.a.dora_scale", "DoRA's"}};
  for (const auto& [name, layout] : other_tools) {
    INFO(name);
    check_error(
        [&, &key = name] {
          cf::read_lora(written({{key, at::ones({1, 2})}}));
        },
        path, layout);
  }
  check_error(
      [&] {
        cf::read_lora(written({{"transformer.a.weight", at::ones({1, 2})}}));
      },
      path, "an adapter");
  check_error([&] { cf::read_lora(written({})); }, path, "an adapter");
  check_error([&] { cf::read_lora(directory.path()); }, directory.path().string(), "neither");
  check_error([&] { cf::read_lora(directory / "none"); }, (directory / "none").string(),
              "a readable file");
  // An alpha without its layer.
  cf::Lora lora(tiny::network());
  add_random(lora, "any");
  std::map<std::string, Tensor> old;
  for (const auto& [name, tensor] : lora.tensors("any")) old.emplace("transformer." + name, tensor);
  old.emplace("transformer.proj_in.alpha", at::ones({}));
  check_error([&] { cf::read_lora(written(old)); }, path, "proj_in.alpha");
}
