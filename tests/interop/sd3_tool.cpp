// The half of scripts/check_diffusers that is ours: reads and writes model folders, adapters and
// tensors, so that the other half can compare them with what diffusers and peft make of them.
//
//   sd3_interop folder MODEL SEED [HOW]           a tiny folder with random weights; HOW is
//                                                 "without-t5" or "sharded"
//   sd3_interop tokenizers OUT MERGES             both CLIP tokenizers, of a list of merges
//   sd3_interop adapter MODEL OUT RANK ALPHA      an adapter, trained a little, as OUT/diffusers
//   and
//                                                 OUT/peft
//   sd3_interop images MODEL IN OUT [ADAPTER]     encoded prompts, latents and images
//   sd3_interop velocity MODEL IN OUT [ADAPTER]   the transformer alone

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/optim/adam.h>

#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/sd3/random_folder.hpp>

namespace cf = contraflow;
using cf::Tensor;

namespace {

using Arguments = std::vector<std::string>;
using Tensors = std::map<std::string, Tensor>;

// The transformer of a folder, under an adapter where one is named.
cf::Mmdit transformer(const cf::sd3::Folder& folder, const Arguments& arguments, std::size_t at) {
  cf::Mmdit model = folder.transformer();
  if (arguments.size() <= at) return model;
  cf::Lora lora(model.module());
  lora.add("adapter", cf::read_lora(arguments[at]), arguments[at]);
  lora.use("adapter");
  return model;
}

void write_folder(const Arguments& arguments) {
  cf::sd3::RandomFolderOptions options = cf::sd3::tiny_folder(std::stoull(arguments[1]));
  const std::string how = arguments.size() > 2 ? arguments[2] : "";
  options.with_t5 = how != "without-t5";
  if (how == "sharded") options.shard_bytes = 40'000;
  cf::sd3::write_random_folder(arguments[0], options);
}

void write_tokenizers(const Arguments& arguments) {
  std::ifstream file(arguments[1]);
  std::vector<std::string> merges;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && !line.starts_with("#")) merges.push_back(line);
  }
  const std::filesystem::path out = arguments[0];
  for (const char* name : {"tokenizer", "tokenizer_2"})
    std::filesystem::create_directories(out / name);
  cf::write_clip_tokenizer(out / "tokenizer", merges);
  cf::write_clip_tokenizer(out / "tokenizer_2", merges, {.pad = "!"});
}

// A few steps of flow matching on noise: enough for both factors to be far from their start.
void write_adapter(const Arguments& arguments) {
  cf::Mmdit model = cf::sd3::Folder(arguments[0]).transformer();
  const cf::MmditOptions& shape = model.network().options();
  cf::set_trainable(*model.module(), false);
  cf::Generator generator = cf::seeded(7);
  cf::Lora lora(model.module());
  lora.add("trained", {.rank = std::stoll(arguments[2]), .alpha = std::stod(arguments[3])},
           generator);
  lora.set_trainable("trained", true);
  lora.use("trained");
  torch::optim::Adam optimizer(lora.parameters("trained"), 0.05);
  for (int step = 0; step < 8; ++step) {
    const Tensor x = cf::normal({2, shape.in_channels, 8, 8}, generator);
    const Tensor target = cf::normal(x.sizes(), generator);
    const cf::TextCondition condition{cf::normal({2, 5, shape.joint_attention_dim}, generator),
                                      cf::normal({2, shape.pooled_projection_dim}, generator)};
    optimizer.zero_grad();
    (model(x, cf::uniform({2}, generator), condition) - target).square().mean().backward();
    optimizer.step();
  }
  const std::filesystem::path out = arguments[1];
  cf::write_diffusers_lora(out / "diffusers", lora.weights("trained"));
  cf::write_peft_lora(out / "peft", lora.weights("trained"));
}

void write_images(const Arguments& arguments) {
  const cf::sd3::Folder folder(arguments[0]);
  const cf::SafetensorsFile in = cf::read_safetensors(arguments[1]);
  const auto settings = nlohmann::json::parse(in.metadata.at("settings"));
  auto captions = settings.at("prompts").get<std::vector<std::string>>();
  const auto count = std::int64_t(captions.size());
  captions.push_back(settings.at("negative").get<std::string>());
  const cf::TextCondition encoded = cf::sd3::encode_prompts(
      folder, captions, {.t5_tokens = settings.at("t5_tokens"), .with_t5 = folder.has_t5()});
  cf::Generator unused = cf::seeded(0);
  const Tensor latents = cf::sd3::generate(
      transformer(folder, arguments, 3), in.tensors.at("noise"),
      cf::select(encoded, at::arange(count)), cf::select(encoded, at::tensor({count}, at::kLong)),
      settings.at("guidance").get<double>(), folder.grid(settings.at("steps")), cf::DpmSolver<1>{},
      unused);
  cf::write_safetensors(arguments[2], Tensors{{"sequence", encoded.sequence},
                                              {"pooled", encoded.pooled},
                                              {"latents", latents},
                                              {"images", folder.vae()->decode(latents)}});
}

void write_velocity(const Arguments& arguments) {
  const at::NoGradGuard no_gradient;
  const Tensors in = cf::read_safetensors(arguments[1]).tensors;
  cf::Mmdit model = transformer(cf::sd3::Folder(arguments[0]), arguments, 3);
  const Tensor velocity = model(in.at("x_t"), in.at("t"), {in.at("sequence"), in.at("pooled")});
  cf::write_safetensors(arguments[2], Tensors{{"velocity", velocity}});
}

struct Command {
  const char* name;
  std::size_t least, most;  // arguments
  void (*run)(const Arguments&);
};

constexpr Command commands[] = {{"folder", 2, 3, write_folder},
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
  std::cerr << "sd3_interop: used by scripts/check_diffusers\n";
  return 2;
}
