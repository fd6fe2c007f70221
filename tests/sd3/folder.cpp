// Model folders: every component loads, and what is wrong is named with its file.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/sd3/folder.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "sd3/tiny_folder.hpp"

namespace cf = contraflow;
namespace fs = std::filesystem;
using cf::Tensor;
using laws::check_error;
using laws::same_bits;

namespace {

const std::string transformer_file = "transformer/diffusion_pytorch_model.safetensors";

// Changes the tensors of a file.
template <class F>
void rewrite(const fs::path& file, F&& change) {
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, tensor] : cf::read_safetensors(file).tensors) {
    tensors.emplace(name, tensor.clone());
  }
  change(tensors);
  cf::write_safetensors(file, tensors);
}

// Whether a network has exactly the tensors of a file.
void check_same(const torch::nn::Module& network, const fs::path& file) {
  const auto own = cf::named_weights(network), written = cf::read_safetensors(file).tensors;
  REQUIRE(own.size() == written.size());
  for (const auto& [name, tensor] : written) {
    INFO(name);
    REQUIRE(own.contains(name));
    CHECK(same_bits(own.at(name).detach(), tensor));
  }
}

}  // namespace

TEST_CASE("every component of a folder loads with the weights of its file") {
  const cf::sd3::Folder folder(tiny::shared_folder());
  CHECK(folder.has_t5());
  CHECK(folder.path() == tiny::shared_folder());
  const auto file = [&](const std::string& name) { return folder.path() / name; };
  check_same(*folder.transformer().module(), file(transformer_file));
  check_same(*folder.clip(1), file("text_encoder/model.safetensors"));
  check_same(*folder.clip(2), file("text_encoder_2/model.safetensors"));
  check_same(*folder.t5(), file("text_encoder_3/model.safetensors"));
  check_same(*folder.vae({}, cf::VaeParts::both), file("vae/diffusion_pytorch_model.safetensors"));
  CHECK(folder.clip_tokenizer(1).pad_id() == 513);
  CHECK(folder.clip_tokenizer(2).pad_id() == 0);
  CHECK(folder.t5_tokenizer(19).length() == 19);
  CHECK(folder.grid(7).sigmas() == cf::sd3_grid(7).sigmas());
  check_error([&] { folder.clip(3); }, "number", "got 3");
}

TEST_CASE("shapes come from the configurations") {
  const cf::sd3::Folder folder(tiny::shared_folder());
  const cf::sd3::RandomFolderOptions written = cf::sd3::tiny_folder();
  const cf::MmditOptions transformer = folder.transformer_options();
  CHECK(transformer.num_layers == written.transformer.num_layers);
  CHECK(transformer.width() == written.transformer.width());
  CHECK(transformer.dual_attention_layers == written.transformer.dual_attention_layers);
  CHECK(transformer.pos_embed_max_size == written.transformer.pos_embed_max_size);
  CHECK(transformer.qk_norm);
  const cf::VaeOptions vae = folder.autoencoder_options();
  CHECK(vae.block_out_channels == written.vae.block_out_channels);
  CHECK(vae.scaling_factor == 1.5305);
  CHECK(vae.shift_factor == 0.0609);
}

TEST_CASE("components come in the dtype asked for, and the decoder comes alone") {
  const cf::sd3::Folder folder(tiny::shared_folder());
  cf::Mmdit model = folder.transformer({.dtype = at::kBFloat16});
  for (const Tensor& weight : model.module()->parameters()) {
    CHECK(weight.scalar_type() == at::kBFloat16);
  }
  const auto vae = folder.vae();
  for (const auto& item : vae->named_parameters()) CHECK(item.key().starts_with("decoder."));
  const Tensor latents = laws::floats({1, 16, 4, 4});
  CHECK(same_bits(vae->decode(latents), folder.vae({}, cf::VaeParts::both)->decode(latents)));
  check_error([&] { vae->encode(at::zeros({1, 3, 32, 32})); }, "vae", "an encoder");
}

TEST_CASE("weights stay in the file until they are used, and outlive the folder's object") {
  const auto model = cf::sd3::Folder(tiny::shared_folder()).transformer();
  const auto own = cf::named_weights(*model.module());
  CHECK(own.at("proj_out.weight").isfinite().all().item<bool>());
}

TEST_CASE("weights in several files load as those in one") {
  const tiny::OwnFolder folder;
  cf::sd3::RandomFolderOptions options = cf::sd3::tiny_folder();
  options.shard_bytes = 40'000;
  cf::sd3::write_random_folder(folder / "parts", options);
  const fs::path parts = folder / "parts/text_encoder_3";
  CHECK(fs::exists(parts / "model.safetensors.index.json"));
  CHECK_FALSE(fs::exists(parts / "model.safetensors"));
  check_same(*cf::sd3::Folder(folder / "parts").t5(),
             tiny::shared_folder() / "text_encoder_3/model.safetensors");
  const auto index = nlohmann::json::parse(read_all(parts / "model.safetensors.index.json"));
  const fs::path first = parts / index.at("weight_map").at("shared.weight").get<std::string>();
  REQUIRE(fs::remove(first));
  check_error([&] { cf::sd3::Folder(folder / "parts").t5(); }, first.string(), "a readable file");
}

TEST_CASE("a folder in a variant loads, the plain weights before it") {
  const tiny::OwnFolder folder;
  cf::sd3::RandomFolderOptions options = cf::sd3::tiny_folder();
  options.shard_bytes = 40'000;
  cf::sd3::write_random_folder(folder / "parts", options);
  for (const char* component : {"transformer", "vae"}) {
    const fs::path stem = folder / component / "diffusion_pytorch_model";
    fs::rename(stem.string() + ".safetensors", stem.string() + ".fp16.safetensors");
  }
  for (const char* component : {"text_encoder", "text_encoder_2"}) {
    const fs::path stem = folder / component / "model";
    fs::rename(stem.string() + ".safetensors", stem.string() + ".fp16.safetensors");
  }
  // T5 in parts, as save_pretrained(variant="fp16") names them.
  const fs::path t5 = folder / "text_encoder_3";
  fs::remove_all(t5);
  fs::rename(folder / "parts/text_encoder_3", t5);
  auto index = nlohmann::json::parse(read_all(t5 / "model.safetensors.index.json"));
  for (auto& [tensor, file] : index.at("weight_map").items()) {
    const std::string before = file.get<std::string>();
    file = "model.fp16" + before.substr(std::string("model").size());
    if (fs::exists(t5 / before)) fs::rename(t5 / before, t5 / file.get<std::string>());
  }
  fs::remove(t5 / "model.safetensors.index.json");
  write_all(t5 / "model.safetensors.index.fp16.json", index.dump());

  const cf::sd3::Folder read(folder.path());
  const auto plain = [](const std::string& name) { return tiny::shared_folder() / name; };
  check_same(*read.transformer().module(), plain(transformer_file));
  check_same(*read.vae({}, cf::VaeParts::both), plain("vae/diffusion_pytorch_model.safetensors"));
  check_same(*read.clip(1), plain("text_encoder/model.safetensors"));
  check_same(*read.clip(2), plain("text_encoder_2/model.safetensors"));
  check_same(*read.t5(), plain("text_encoder_3/model.safetensors"));

  fs::copy_file(plain(transformer_file), folder / transformer_file);
  rewrite(folder / transformer_file, [](auto& tensors) { tensors["proj_out.bias"].fill_(3); });
  CHECK(read.transformer().module()->named_parameters()["proj_out.bias"].eq(3).all().item<bool>());
}

TEST_CASE("what is no model folder is recognised, with what helps") {
  const TemporaryDirectory directory;
  const auto is = [&](const fs::path& path, const std::string& part) {
    check_error([&] { cf::sd3::Folder folder(path); }, path.string(), part);
  };
  const auto file = [&](const std::string& name, const char* tensor) {
    fs::create_directories((directory / name).parent_path());
    cf::write_safetensors(directory / name, {{tensor, at::ones({1})}});
    return directory / name;
  };
  const char* original = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight";
  const fs::path whole = file("sd/sd3.5_medium.safetensors", original);
  const std::string convert =
      "StableDiffusion3Pipeline.from_single_file(\"sd3.5_medium.safetensors\").save_pretrained(";
  is(whole, "got a single-file checkpoint of Stable Diffusion 3");
  is(whole, convert);
  is(whole.parent_path(), convert);
  is(file("sdxl.safetensors", "model.diffusion_model.input_blocks.0.weight"), "another model");
  const char* kohya = "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight";
  is(file("lora.safetensors", kohya), "got an adapter (LoRA) alone");
  is(file("pictures/style.safetensors", "transformer.a.lora_A.weight").parent_path(),
     "got a folder with style.safetensors, an adapter (LoRA) alone");
  is(file("unet.safetensors", "transformer_blocks.0.attn.to_q.weight"), "a transformer alone");
  is(file("any.safetensors", "a"), "got a file of other tensors");
  for (const char* name : {"model.ckpt", "model.bin", "model.pt", "model.pth"}) {
    write_all(directory / name, "any");
    is(directory / name, "a pickle of PyTorch, which is not read; in Python, ");
  }
  write_all(directory / "model.gguf", "any");
  is(directory / "model.gguf", "GGUF");
  write_all(directory / "damaged.safetensors", "any");
  is(directory / "damaged.safetensors", "at least 8 bytes");

  const tiny::OwnFolder model;
  is(model / "transformer", "one component of a model, SD3Transformer2DModel: give the folder");
  is(model / "text_encoder", "one component of a model, of transformers");
  for (const char* name : {"adapter_config.json", "pytorch_lora_weights.safetensors"}) {
    const fs::path adapter = directory / (std::string("adapter-") + name);
    fs::create_directory(adapter);
    write_all(adapter / name, "{}");
    is(adapter, "got an adapter (LoRA) alone");
  }
  fs::create_directories(directory / "hub/snapshots");
  is(directory / "hub", "give the one below " + (directory / "hub/snapshots").string());
  fs::create_directories(directory / "other/unet");
  write_all(directory / "other/model_index.json", R"({"_class_name": "StableDiffusionPipeline"})");
  is(directory / "other", "got a model of StableDiffusionPipeline with model_index.json, unet");
  fs::create_directory(directory / "empty");
  is(directory / "empty", "got an empty folder");
  fs::create_directories(directory / "some/vae");
  is(directory / "some", "got a folder with vae");

  model.change("transformer/config.json", {{"_class_name", "FluxTransformer2DModel"}});
  check_error([&] { cf::sd3::Folder folder(model.path()); },
              (model / "transformer/config.json").string() + ": \"_class_name\"",
              "expected SD3Transformer2DModel, got FluxTransformer2DModel");
}

TEST_CASE("a model without its other components says which it has not") {
  const tiny::OwnFolder model;
  for (const char* name : {"vae", "tokenizer", "text_encoder", "scheduler"}) {
    fs::remove_all(model / name);
  }
  const cf::sd3::Folder folder(model.path());
  CHECK(folder.transformer().module() != nullptr);
  const auto lacks = [&](auto&& load, const std::string& name) {
    check_error(load, model.path().string(),
                "a whole model, with " + name + ", got a folder with ");
  };
  lacks([&] { folder.vae(); }, "vae");
  lacks([&] { folder.clip(1); }, "text_encoder");
  lacks([&] { folder.clip_tokenizer(1); }, "tokenizer");
  lacks([&] { folder.grid(4); }, "scheduler");
}

TEST_CASE("a folder that is none is refused") {
  const TemporaryDirectory directory;
  check_error([&] { cf::sd3::Folder folder(directory.path()); }, directory.path().string(),
              "transformer/config.json");
  const std::string nowhere = (directory / "nowhere").string();
  check_error([&] { cf::sd3::Folder folder(nowhere); }, nowhere, "got nothing");
}

TEST_CASE("missing, unexpected and misshapen weights are all named") {
  const tiny::OwnFolder folder;
  rewrite(folder / transformer_file, [](auto& tensors) {
    tensors.erase("context_embedder.bias");
    tensors.erase("transformer_blocks.1.attn.to_q.weight");
    tensors["transformer_blocks.0.attn3.to_q.weight"] = at::zeros({2});
    tensors["proj_out.bias"] = at::zeros({7});
  });
  const std::string component = (folder / "transformer").string();
  const auto load = [&] { cf::sd3::Folder(folder.path()).transformer(); };
  check_error(load, component,
              "missing: context_embedder.bias, transformer_blocks.1.attn.to_q.weight");
  check_error(load, component, "unexpected: transformer_blocks.0.attn3.to_q.weight");
  check_error(load, component, "misshapen: proj_out.bias [7] instead of [64]");
}

TEST_CASE("files that are missing or cut off are named") {
  const auto refuses = [](const std::string& file, auto&& load, const std::string& part) {
    {
      const tiny::OwnFolder folder;
      const auto size = fs::file_size(folder / file);
      for (const auto kept : {size - 2, size / 2, std::uintmax_t{9}, std::uintmax_t{0}}) {
        INFO(file << " cut off at " << kept);
        fs::resize_file(folder / file, kept);
        check_error([&] { load(cf::sd3::Folder(folder.path())); }, (folder / file).string(), "");
      }
    }
    const tiny::OwnFolder folder;
    fs::remove(folder / file);
    check_error([&] { load(cf::sd3::Folder(folder.path())); }, (folder / part).string(), "");
  };
  using Folder = cf::sd3::Folder;
  refuses(
      transformer_file, [](const Folder& f) { f.transformer(); }, "transformer");
  refuses(
      "vae/diffusion_pytorch_model.safetensors", [](const Folder& f) { f.vae(); }, "vae");
  refuses(
      "vae/config.json", [](const Folder& f) { f.vae(); }, "vae/config.json");
  refuses(
      "text_encoder/config.json", [](const Folder& f) { f.clip(1); }, "text_encoder/config.json");
  refuses(
      "text_encoder_2/model.safetensors", [](const Folder& f) { f.clip(2); }, "text_encoder_2");
  refuses(
      "text_encoder_3/model.safetensors", [](const Folder& f) { f.t5(); }, "text_encoder_3");
  refuses(
      "scheduler/scheduler_config.json", [](const Folder& f) { f.grid(4); },
      "scheduler/scheduler_config.json");
}

TEST_CASE("values of a configuration that cannot be are named with file and key") {
  const tiny::OwnFolder folder;
  const auto refuses = [&](const std::string& file, const nlohmann::json& patch, auto&& load,
                           const std::string& part) {
    const std::string before = read_all(folder / file);
    folder.change(file, patch);
    INFO(patch.dump());
    try {
      load(cf::sd3::Folder(folder.path()));
      FAIL_CHECK("nothing was thrown");
    } catch (const cf::Error& error) {
      CHECK_THAT(std::string(error.what()), Catch::Matchers::ContainsSubstring(part));
    }
    write_all(folder / file, before);
  };
  using Folder = cf::sd3::Folder;
  const auto transformer = [&](const nlohmann::json& patch, const std::string& part) {
    refuses(
        "transformer/config.json", patch, [](const Folder& f) { f.transformer(); }, part);
  };
  transformer({{"num_layers", 0}}, "num_layers");
  transformer({{"num_layers", nullptr}}, "num_layers");
  transformer({{"num_layers", "3"}}, "num_layers");
  transformer({{"num_layers", 2.5}}, "num_layers");
  transformer({{"num_layers", 2'000'000'000}}, "num_layers");
  transformer({{"attention_head_dim", -16}}, "attention_head_dim");
  transformer({{"joint_attention_dim", 1'000'000'000'000}}, "joint_attention_dim");
  transformer({{"caption_projection_dim", 31}}, "caption_projection_dim");
  transformer({{"dual_attention_layers", {0, 3}}}, "dual_attention_layers");
  transformer({{"dual_attention_layers", "0"}}, "dual_attention_layers");
  transformer({{"qk_norm", "layer_norm"}}, R"("qk_norm": expected rms_norm)");
  transformer({{"patch_size", 16}}, "sample_size");
  // Fewer layers than the file has.
  transformer({{"num_layers", 2}}, "transformer_blocks.2.attn.to_k.bias");
  const auto vae = [&](const nlohmann::json& patch, const std::string& part) {
    refuses(
        "vae/config.json", patch, [](const Folder& f) { f.vae(); }, part);
  };
  vae({{"act_fn", "relu"}}, R"("act_fn": expected silu)");
  vae({{"scaling_factor", nullptr}}, "scaling_factor");
  vae({{"scaling_factor", 0}}, "scaling_factor");
  vae({{"block_out_channels", nlohmann::json::array()}}, "block_out_channels");
  vae({{"block_out_channels", {8, 0}}}, "block_out_channels");
  vae({{"norm_num_groups", 5}}, "groups");
  refuses(
      "text_encoder/config.json", {{"hidden_act", "relu"}}, [](const Folder& f) { f.clip(1); },
      "hidden_act");
  refuses(
      "text_encoder/config.json", {{"num_attention_heads", 3}}, [](const Folder& f) { f.clip(1); },
      "heads");
  refuses(
      "text_encoder_3/config.json", {{"feed_forward_proj", "relu"}},
      [](const Folder& f) { f.t5(); }, R"("feed_forward_proj": expected gated-gelu)");
  refuses(
      "scheduler/scheduler_config.json", {{"use_dynamic_shifting", true}},
      [](const Folder& f) { f.grid(4); }, "use_dynamic_shifting false");
  refuses(
      "scheduler/scheduler_config.json", {{"shift", -1}}, [](const Folder& f) { f.grid(4); },
      "shift");
}

TEST_CASE("tokenizers are read from tokenizer.json where there is nothing else") {
  const tiny::OwnFolder folder;
  const std::vector<std::string> captions{"a cat's hat!", "<|endoftext|> in", "\xC3\x9C 42",
                                          "a</s> <pad>"};
  // As newer releases of transformers write them, in both forms of merges.
  for (const bool pairs : {true, false}) {
    const std::vector<std::string> lines{"c a", "ca t</w>"};
    cf::write_clip_tokenizer(folder / "tokenizer", lines);
    const cf::TokenBatch expected = cf::ClipTokenizer(folder / "tokenizer").encode(captions);
    nlohmann::json merges = nlohmann::json::array();
    for (const std::string& line : lines) {
      const auto space = line.find(' ');
      merges.push_back(pairs ? nlohmann::json{line.substr(0, space), line.substr(space + 1)}
                             : nlohmann::json(line));
    }
    const auto vocabulary = nlohmann::json::parse(read_all(folder / "tokenizer/vocab.json"));
    nlohmann::json added = nlohmann::json::array();
    for (const char* token : {"<|startoftext|>", "<|endoftext|>"}) {
      added.push_back({{"id", vocabulary.at(token)}, {"content", token}, {"normalized", false}});
    }
    write_all(folder / "tokenizer/tokenizer.json",
              nlohmann::json{{"added_tokens", added},
                             {"model", {{"vocab", vocabulary}, {"merges", merges}}}}
                  .dump());
    for (const char* name : {"vocab.json", "merges.txt", "special_tokens_map.json"}) {
      fs::remove(folder / "tokenizer" / name);
    }
    const cf::ClipTokenizer read = cf::sd3::Folder(folder.path()).clip_tokenizer(1);
    CHECK(at::equal(read.encode(captions).ids, expected.ids));
    CHECK(read.length() == 77);
    fs::remove(folder / "tokenizer/tokenizer.json");
  }
  check_error([&] { cf::sd3::Folder(folder.path()).clip_tokenizer(1); },
              (folder / "tokenizer/vocab.json").string(), "a readable file");

  const cf::TokenBatch expected = cf::sd3::Folder(folder.path()).t5_tokenizer(20).encode(captions);
  nlohmann::json pieces = nlohmann::json::array();
  const auto add = [&](const std::string& text, double score) {
    pieces.push_back(nlohmann::json::array({text, score}));
  };
  for (const char* special : {"<pad>", "</s>", "<unk>"}) add(special, 0);
  for (const auto& [text, score] : cf::pipeline::detail::letter_pieces(128)) add(text, score);
  const nlohmann::json model = {
      {"normalizer", nullptr},
      {"added_tokens", {{{"id", 0}, {"content", "<pad>"}}, {{"id", 1}, {"content", "</s>"}}}},
      {"model", {{"type", "Unigram"}, {"unk_id", 2}, {"vocab", pieces}}}};
  fs::remove(folder / "tokenizer_3/spiece.model");
  const std::string file = (folder / "tokenizer_3/tokenizer.json").string();
  write_all(file, model.dump());
  const auto t5 = [&] { return cf::sd3::Folder(folder.path()).t5_tokenizer(20); };
  CHECK(at::equal(t5().encode(captions).ids, expected.ids));
  const auto refuses = [&](const nlohmann::json& patch, const std::string& part) {
    nlohmann::json changed = model;
    changed.merge_patch(patch);
    write_all(file, changed.dump());
    try {
      t5();
      FAIL_CHECK("nothing was thrown");
    } catch (const cf::Error& error) {
      CHECK_THAT(std::string(error.what()), Catch::Matchers::ContainsSubstring(part));
      CHECK(error.argument().starts_with(file));
    }
  };
  refuses({{"model", nullptr}}, "model");
  refuses({{"model", {{"vocab", {"a", "b", "c"}}}}}, "pairs: text and score");
  refuses({{"model", {{"unk_id", 5000}}}}, "unk_id");
  refuses({{"normalizer", {{"type", "Lowercase"}}}}, "type Precompiled");
}
