// The half of scripts/check_diffusers that is ours: reads and writes model folders, adapters and
// tensors, so that the other half can compare them with what diffusers and peft make of them. Which
// model a folder is of its model_index.json says.
//
//   interop folder MODEL SEED KIND [HOW]      a tiny folder with random weights; KIND is one of
//                                             those of make_random_model, HOW is "without-t5" or
//                                             "sharded"
//   interop tokenizers OUT MERGES             both CLIP tokenizers, of a list of merges
//   interop adapter MODEL OUT RANK ALPHA      an adapter, trained a little, as OUT/diffusers and
//                                             OUT/peft
//   interop images MODEL IN OUT [ADAPTER]     encoded prompts, latents and images
//   interop velocity MODEL IN OUT [ADAPTER]   the transformer alone

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/optim/adam.h>

#include <contraflow/flux/encode_flux_prompts.hpp>
#include <contraflow/flux/random_flux_folder.hpp>
#include <contraflow/io/settings.hpp>
#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/sd3/random_folder.hpp>

namespace cf = contraflow;
namespace fs = std::filesystem;
using cf::Tensor;

namespace {

using Arguments = std::vector<std::string>;
using Tensors = std::map<std::string, Tensor>;

// What the two models do not share.

struct Sizes {
  std::int64_t channels, sequence, pooled;
};
Sizes sizes(const cf::MmditOptions& o) {
  return {o.in_channels, o.joint_attention_dim, o.pooled_projection_dim};
}
Sizes sizes(const cf::FluxOptions& o) {
  return {o.in_channels / 4, o.joint_attention_dim, o.pooled_projection_dim};
}

cf::LoraOptions lora_options(const cf::sd3::Folder&) { return {}; }
cf::LoraOptions lora_options(const cf::flux::Folder&) { return cf::flux::lora_options(); }

cf::Mmdit plain_transformer(const cf::sd3::Folder& folder, double) { return folder.transformer(); }
cf::flux::Model plain_transformer(const cf::flux::Folder& folder, double guidance) {
  return folder.transformer({}, guidance);
}

cf::TimeGrid grid(const cf::sd3::Folder& folder, int steps, const Tensor&) {
  return folder.grid(steps);
}
cf::TimeGrid grid(const cf::flux::Folder& folder, int steps, const Tensor& noise) {
  return folder.grid(steps, noise[0].sizes().vec());
}

cf::TextCondition encoded(const cf::sd3::Folder& folder, const Arguments& captions,
                          std::int64_t t5_tokens) {
  return cf::sd3::encode_prompts(folder, captions,
                                 {.t5_tokens = t5_tokens, .with_t5 = folder.has_t5()});
}
cf::TextCondition encoded(const cf::flux::Folder& folder, const Arguments& captions,
                          std::int64_t t5_tokens) {
  return cf::flux::encode_prompts(folder, captions, {.t5_tokens = t5_tokens});
}

// Calls f with the folder as the class that it is of.
template <class F>
void with_folder(const fs::path& path, F&& f) {
  const cf::Settings index(path / "model_index.json");
  if (index.text("_class_name", "") == "FluxPipeline") return f(cf::flux::Folder(path));
  f(cf::sd3::Folder(path));
}

// The transformer of a folder, under an adapter where one is named.
template <class Folder>
auto transformer(const Folder& folder, double guidance, const Arguments& arguments,
                 std::size_t at) {
  auto model = plain_transformer(folder, guidance);
  if (arguments.size() <= at) return model;
  cf::Lora lora(model.module());
  lora.add("adapter", cf::read_lora(arguments[at]), arguments[at]);
  lora.use("adapter");
  return model;
}

template <class Options>
Options with_seed(Options options, const Arguments& arguments) {
  options.seed = std::stoull(arguments[1]);
  if (arguments.back() == "sharded") options.shard_bytes = 40'000;
  return options;
}

void write_flux_folder(const Arguments& arguments) {
  auto options = with_seed(cf::flux::tiny_folder(), arguments);
  if (arguments[2] == "flux-schnell") options = cf::flux::as_schnell(options);
  cf::flux::write_random_folder(arguments[0], options);
}

void write_folder(const Arguments& arguments) {
  const std::string& kind = arguments[2];
  if (kind.starts_with("flux")) return write_flux_folder(arguments);
  const std::map<std::string, cf::MmditOptions> kinds{
      {"sd3-medium", cf::sd3_medium()}, {"sd3.5-medium", {}}, {"sd3.5-large", cf::sd35_large()}};
  auto options = with_seed(cf::sd3::tiny_folder(0, kinds.at(kind)), arguments);
  options.with_t5 = arguments.back() != "without-t5";
  cf::sd3::write_random_folder(arguments[0], options);
}

void write_tokenizers(const Arguments& arguments) {
  std::ifstream file(arguments[1]);
  std::vector<std::string> merges;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && !line.starts_with("#")) merges.push_back(line);
  }
  const fs::path out = arguments[0];
  for (const char* name : {"tokenizer", "tokenizer_2"}) fs::create_directories(out / name);
  cf::write_clip_tokenizer(out / "tokenizer", merges);
  cf::write_clip_tokenizer(out / "tokenizer_2", merges, {.pad = "!"});
}

// A few steps of flow matching on noise: enough for both factors to be far from their start.
template <class Model>
void train(Model& model, const std::vector<Tensor>& parameters, cf::Generator& generator) {
  const Sizes of = sizes(model.network().options());
  torch::optim::Adam optimizer(parameters, 0.05);
  for (int step = 0; step < 8; ++step) {
    const Tensor x = cf::normal({2, of.channels, 8, 8}, generator);
    const Tensor target = cf::normal(x.sizes(), generator);
    const cf::TextCondition condition{cf::normal({2, 5, of.sequence}, generator),
                                      cf::normal({2, of.pooled}, generator)};
    optimizer.zero_grad();
    (model(x, cf::uniform({2}, generator), condition) - target).square().mean().backward();
    optimizer.step();
  }
}

void write_adapter(const Arguments& arguments) {
  with_folder(arguments[0], [&](const auto& folder) {
    auto model = plain_transformer(folder, 3.5);
    cf::set_trainable(*model.module(), false);
    cf::Generator generator = cf::seeded(7);
    cf::Lora lora(model.module());
    cf::LoraOptions options = lora_options(folder);
    options.rank = std::stoll(arguments[2]);
    options.alpha = std::stod(arguments[3]);
    lora.add("trained", options, generator);
    lora.set_trainable("trained", true);
    lora.use("trained");
    train(model, lora.parameters("trained"), generator);
    const fs::path out = arguments[1];
    cf::write_diffusers_lora(out / "diffusers", lora.weights("trained"));
    cf::write_peft_lora(out / "peft", lora.weights("trained"));
  });
}

void write_images(const Arguments& arguments) {
  const cf::SafetensorsFile in = cf::read_safetensors(arguments[1]);
  const auto settings = nlohmann::json::parse(in.metadata.at("settings"));
  const Tensor& noise = in.tensors.at("noise");
  auto captions = settings.at("prompts").get<Arguments>();
  const auto count = std::int64_t(captions.size());
  captions.push_back(settings.at("negative").get<std::string>());
  with_folder(arguments[0], [&](const auto& folder) {
    const cf::TextCondition texts = encoded(folder, captions, settings.at("t5_tokens"));
    cf::Generator unused = cf::seeded(0);
    const Tensor latents = cf::pipeline::generate(
        transformer(folder, settings.value("embedded", 3.5), arguments, 3), noise,
        cf::select(texts, at::arange(count)), cf::select(texts, at::tensor({count}, at::kLong)),
        settings.at("guidance").get<double>(), grid(folder, settings.at("steps"), noise),
        cf::DpmSolver<1>{}, unused);
    cf::write_safetensors(arguments[2], Tensors{{"sequence", texts.sequence},
                                                {"pooled", texts.pooled},
                                                {"latents", latents},
                                                {"images", folder.vae()->decode(latents)}});
  });
}

void write_velocity(const Arguments& arguments) {
  const at::NoGradGuard no_gradient;
  const Tensors in = cf::read_safetensors(arguments[1]).tensors;
  with_folder(arguments[0], [&](const auto& folder) {
    const auto embedded = in.find("guidance");
    const double guidance = embedded == in.end() ? 3.5 : embedded->second.template item<double>();
    auto model = transformer(folder, guidance, arguments, 3);
    const Tensor velocity = model(in.at("x_t"), in.at("t"), {in.at("sequence"), in.at("pooled")});
    cf::write_safetensors(arguments[2], Tensors{{"velocity", velocity}});
  });
}

struct Command {
  const char* name;
  std::size_t least, most;  // arguments
  void (*run)(const Arguments&);
};

constexpr Command commands[] = {{"folder", 3, 4, write_folder},
                                {"tokenizers", 2, 2, write_tokenizers},
                                {"adapter", 4, 4, write_adapter},
                                {"images", 3, 4, write_images},
                                {"velocity", 3, 4, write_velocity}};

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments(argv + std::min(argc, 2), argv + argc);
  const std::string name = argc > 1 ? argv[1] : "";
  for (const Command& command : commands) {
    if (command.name != name) continue;
    if (arguments.size() < command.least || arguments.size() > command.most) break;
    try {
      command.run(arguments);
      return EXIT_SUCCESS;
    } catch (const std::exception& error) {
      std::cerr << error.what() << "\n";
      return EXIT_FAILURE;
    }
  }
  std::cerr << "interop: used by scripts/check_diffusers\n";
  return 2;
}
