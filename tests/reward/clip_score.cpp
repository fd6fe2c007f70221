// CLIP with its heads, on tiny random weights in folders of this test.

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <contraflow/reward/clip_score.hpp>
#include <contraflow/reward/combination.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "laws/reward.hpp"
#include "observe/temporary_directory.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using Catch::Approx;
using cf::Captions;
using cf::ClipPreprocessing;
using cf::Tensor;
using laws::check_error;
using nlohmann::json;
using Weights = std::map<std::string, Tensor>;

namespace {

// The vocabulary that no merges make: bytes, bytes at the end of words, two specials.
constexpr std::int64_t vocabulary = 514;

cf::ClipOptions tiny() {
  return {.text = {.vocab_size = vocabulary,
                   .hidden_size = 16,
                   .intermediate_size = 24,
                   .projection_dim = 12,
                   .num_hidden_layers = 2,
                   .num_attention_heads = 2,
                   .eos_token_id = vocabulary - 1},
          .vision = {.image_size = 28,
                     .patch_size = 7,
                     .hidden_size = 24,
                     .intermediate_size = 32,
                     .projection_dim = 12,
                     .num_hidden_layers = 2,
                     .num_attention_heads = 3}};
}

json config() {
  return {{"projection_dim", 12},
          {"text_config",
           {{"vocab_size", vocabulary},
            {"hidden_size", 16},
            {"intermediate_size", 24},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 2},
            {"eos_token_id", vocabulary - 1}}},
          {"vision_config",
           {{"image_size", 28},
            {"patch_size", 7},
            {"hidden_size", 24},
            {"intermediate_size", 32},
            {"num_hidden_layers", 2},
            {"num_attention_heads", 3}}}};
}

// A folder as transformers writes it, and the network that is in it.
class Folder {
 public:
  Folder() : network_(tiny()) {
    cf::Generator generator = cf::seeded(5);
    cf::initialise(network_, generator);
    cf::set_trainable(network_, false);
    weights_ = cf::named_weights(network_);
    weights_.at("logit_scale").fill_(std::log(90.0));
    write_config(config());
    write_weights(weights_);
    cf::write_clip_tokenizer(path(), {});
  }

  const std::filesystem::path& path() const { return directory_.path(); }
  const cf::Clip& network() const { return network_; }
  Weights weights() const { return weights_; }
  void write_config(const json& config) { write_all(directory_ / "config.json", config.dump()); }
  void write_weights(const Weights& weights) {
    cf::write_safetensors(directory_ / "model.safetensors", weights);
  }

  // Cosines of images with captions, computed one by one.
  Tensor cosines(const Tensor& images, const Captions& captions,
                 ClipPreprocessing preprocessing) const {
    const at::NoGradGuard no_grad;
    const cf::ClipTokenizer tokenizer(path());
    std::vector<Tensor> all;
    for (std::int64_t i = 0; i < images.size(0); ++i) {
      const Tensor pixels = cf::clip_pixels(images.narrow(0, i, 1), 28, preprocessing);
      const Tensor image = network_.image_embedding(pixels);
      const Tensor text =
          network_.text_embedding(tokenizer.encode(Captions{captions[size_t(i)]}).ids);
      all.push_back(at::cosine_similarity(image, text));
    }
    return at::cat(all);
  }

 private:
  TemporaryDirectory directory_;
  cf::Clip network_;
  Weights weights_;
};

Tensor images(std::int64_t count = 5) { return laws::floats({count, 3, 40, 33}).sigmoid(); }
Captions captions() { return {"a cat", "a dog", "a cat", "", "two cats"}; }

// The weights under OpenCLIP's names.
Weights in_open_clip(const Weights& weights) {
  Weights result;
  const auto tower = [&](const std::string& own, const std::string& theirs) {
    for (int layer = 0; layer < 2; ++layer) {
      const std::string from = own + "encoder.layers." + std::to_string(layer) + ".";
      const std::string to = theirs + "transformer.resblocks." + std::to_string(layer) + ".";
      for (const std::string part : {"weight", "bias"}) {
        result[to + "ln_1." + part] = weights.at(from + "layer_norm1." + part);
        result[to + "ln_2." + part] = weights.at(from + "layer_norm2." + part);
        result[to + "attn.in_proj_" + part] =
            at::cat({weights.at(from + "self_attn.q_proj." + part),
                     weights.at(from + "self_attn.k_proj." + part),
                     weights.at(from + "self_attn.v_proj." + part)});
        result[to + "attn.out_proj." + part] = weights.at(from + "self_attn.out_proj." + part);
        result[to + "mlp.c_fc." + part] = weights.at(from + "mlp.fc1." + part);
        result[to + "mlp.c_proj." + part] = weights.at(from + "mlp.fc2." + part);
      }
    }
  };
  tower("text_model.", "");
  tower("vision_model.", "visual.");
  for (const std::string part : {"weight", "bias"}) {
    result["visual.ln_pre." + part] = weights.at("vision_model.pre_layrnorm." + part);
    result["visual.ln_post." + part] = weights.at("vision_model.post_layernorm." + part);
    result["ln_final." + part] = weights.at("text_model.final_layer_norm." + part);
  }
  const std::string text = "text_model.embeddings.", vision = "vision_model.embeddings.";
  result["token_embedding.weight"] = weights.at(text + "token_embedding.weight");
  result["positional_embedding"] = weights.at(text + "position_embedding.weight");
  result["visual.class_embedding"] = weights.at(vision + "class_embedding");
  result["visual.positional_embedding"] = weights.at(vision + "position_embedding.weight");
  result["visual.conv1.weight"] = weights.at(vision + "patch_embedding.weight");
  result["visual.proj"] = weights.at("visual_projection.weight").t().contiguous();
  result["text_projection"] = weights.at("text_projection.weight").t().contiguous();
  result["logit_scale"] = weights.at("logit_scale");
  return result;
}

Weights head_weights() {
  cf::AestheticHead head(12);
  cf::Generator generator = cf::seeded(9);
  cf::initialise(head, generator);
  cf::set_trainable(head, false);
  return cf::named_weights(head);
}

template <class R>
void check_captioned(const R& reward) {
  static_assert(cf::Reward<R, Captions>);
  laws::reward(reward, images(), captions());

  INFO("a broken image has no score");
  Tensor broken = images();
  broken[2][0][3][3] = std::nan("");
  const Tensor scores = reward(broken, captions()), whole = reward(images(), captions());
  CHECK(std::isnan(scores[2].item<float>()));
  CHECK(laws::relative_distance(scores.narrow(0, 0, 2), whole.narrow(0, 0, 2)) < 1e-6);
  CHECK_FALSE(whole.requires_grad());

  check_error([&] { reward(images(), {"one"}); }, "captions", "one an image, 5, got 1");
  check_error([&] { reward(at::zeros({2, 1, 8, 8}), {"a", "b"}); }, "images", "[B, 3, H, W]");
}

}  // namespace

TEST_CASE("the CLIP score is the scaled cosine over 100") {
  const Folder folder;
  const cf::ClipScore reward(folder.path());
  check_captioned(reward);
  const Tensor cosines = folder.cosines(images(), captions(), ClipPreprocessing::torchvision);
  CHECK(laws::relative_distance(reward(images(), captions()), 0.9 * cosines) < 1e-5);
  CHECK(reward(images(), captions()).scalar_type() == at::kFloat);
}

TEST_CASE("PickScore is the scaled cosine over 26") {
  const Folder folder;
  const cf::PickScore reward(folder.path());
  check_captioned(reward);
  const Tensor cosines = folder.cosines(images(), captions(), ClipPreprocessing::transformers);
  CHECK(laws::relative_distance(reward(images(), captions()), cosines * (90.0 / 26)) < 1e-5);
}

TEST_CASE("HPS v2.1 is the cosine, of a model under OpenCLIP's names") {
  const Folder folder;
  const auto file = folder.path() / "hps.safetensors";
  cf::write_safetensors(file, in_open_clip(folder.weights()));
  const cf::HpsV21 reward(file, {}, tiny());
  check_captioned(reward);
  const Tensor cosines = folder.cosines(images(), captions(), ClipPreprocessing::padded);
  CHECK(laws::relative_distance(reward(images(), captions()), cosines) < 1e-5);
}

TEST_CASE("OpenCLIP's names become those of transformers, and unknown ones stay") {
  const Folder folder;
  Weights open = in_open_clip(folder.weights());
  const Weights back = cf::clip_weights_from_open_clip(open);
  REQUIRE(back.size() == folder.weights().size());
  for (const auto& [name, weight] : folder.weights()) {
    INFO(name);
    REQUIRE(back.contains(name));
    CHECK(at::equal(back.at(name), weight));
  }
  open["visual.attnpool.bias"] = at::zeros({2});
  const auto file = folder.path() / "hps.safetensors";
  cf::write_safetensors(file, open);
  check_error([&] { cf::HpsV21(file, {}, tiny()); }, file.string(),
              "unexpected: visual.attnpool.bias");
  check_error(
      [] {
        cf::clip_weights_from_open_clip({{"a.attn.in_proj_bias", at::zeros({4})}});
      },
      "a.attn.in_proj_bias", "three matrices in one, got [4]");
  check_error(
      [] {
        cf::clip_weights_from_open_clip({{"visual.proj", at::zeros({4})}});
      },
      "visual.proj", "a matrix, got [4]");
}

TEST_CASE("the aesthetic predictor is linear layers on the image's direction") {
  const Folder folder;
  const auto head = folder.path() / "head.safetensors";
  cf::write_safetensors(head, head_weights());
  const cf::Aesthetic reward(folder.path(), head);
  static_assert(cf::Reward<cf::Aesthetic, Captions>);
  laws::reward(reward, images());

  const at::NoGradGuard no_grad;
  const Tensor pixels = cf::clip_pixels(images(), 28, ClipPreprocessing::transformers);
  Tensor x = folder.network().image_embedding(pixels);
  x = x / x.norm(2, 1, true);
  for (const char* number : {"0", "2", "4", "6", "7"}) {
    const std::string name = std::string("layers.") + number;
    x = at::linear(x, head_weights().at(name + ".weight"), head_weights().at(name + ".bias"));
  }
  CHECK(laws::relative_distance(reward(images()), x.squeeze(1)) < 1e-5);
  check_error([&] { reward(at::zeros({3, 8, 8})); }, "images", "[B, 3, H, W]");
}

TEST_CASE("the aesthetic predictor says what its head lacks") {
  const Folder folder;
  const auto head = folder.path() / "head.safetensors";
  Weights weights = head_weights();
  weights.erase("layers.6.bias");
  cf::write_safetensors(head, weights);
  check_error([&] { cf::Aesthetic(folder.path(), head); }, head.string(), "missing: layers.6.bias");
}

TEST_CASE("how many images go at a time changes nothing") {
  const Folder folder;
  const Tensor all = cf::PickScore(folder.path(), {.batch = 100})(images(), captions());
  const Tensor each = cf::PickScore(folder.path(), {.batch = 1})(images(), captions());
  CHECK(laws::relative_distance(each, all) < 1e-5);
  check_error([&] { cf::PickScore(folder.path(), {.batch = 0}); }, "batch", "at least 1");
}

TEST_CASE("preprocessing, tokenizer and precision can be chosen") {
  const Folder folder, other;
  const cf::ClipScore as_pickscore(folder.path(),
                                   {.preprocessing = ClipPreprocessing::transformers});
  const Tensor cosines = folder.cosines(images(), captions(), ClipPreprocessing::transformers);
  CHECK(laws::relative_distance(as_pickscore(images(), captions()), 0.9 * cosines) < 1e-5);

  std::filesystem::remove(folder.path() / "vocab.json");
  check_error([&] { cf::ClipScore(folder.path()); }, (folder.path() / "vocab.json").string(),
              "a readable file");
  const cf::ClipScore elsewhere(folder.path(), {.tokenizer = other.path()});
  CHECK(elsewhere(images(), captions()).isfinite().all().item<bool>());

  const cf::ClipScore half(folder.path(),
                           {.tokenizer = other.path(), .placement = {.dtype = at::kBFloat16}});
  const Tensor scores = half(images(), captions());
  CHECK(scores.scalar_type() == at::kFloat);
  CHECK((scores - elsewhere(images(), captions())).abs().max().item<double>() < 0.05);
}

TEST_CASE("files of older transformers hold position_ids too") {
  Folder folder;
  const Tensor before = cf::ClipScore(folder.path())(images(), captions());
  Weights weights = folder.weights();
  weights["text_model.embeddings.position_ids"] = at::arange(77).unsqueeze(0);
  weights["vision_model.embeddings.position_ids"] = at::arange(17).unsqueeze(0);
  folder.write_weights(weights);
  CHECK(at::equal(cf::ClipScore(folder.path())(images(), captions()), before));
}

TEST_CASE("a model that does not fit its config is named") {
  Folder folder;
  json wrong = config();
  wrong["vision_config"]["hidden_size"] = 27;
  folder.write_config(wrong);
  check_error([&] { cf::ClipScore(folder.path()); }, folder.path().string(),
              "vision_model.pre_layrnorm.weight [24] instead of [27]");
  folder.write_config(config());
  Weights weights = folder.weights();
  weights.erase("logit_scale");
  folder.write_weights(weights);
  check_error([&] { cf::ClipScore(folder.path()); }, folder.path().string(),
              "missing: logit_scale");
  std::filesystem::remove(folder.path() / "model.safetensors");
  check_error([&] { cf::ClipScore(folder.path()); }, folder.path().string(),
              "or a variant such as model.fp16.safetensors");
}

TEST_CASE("a config has the defaults of transformers, and its errors name the entry") {
  const auto read = [](const json& object) { return cf::clip_options({object, "config"}); };
  const cf::ClipOptions defaults = read(json::object());
  CHECK(defaults.text.hidden_size == 512);
  CHECK(defaults.text.eos_token_id == 49407);
  CHECK(defaults.vision.patch_size == 32);
  CHECK(defaults.vision.projection_dim == 512);
  CHECK(defaults.text.hidden_act == cf::Activation::quick_gelu);
  const cf::ClipOptions options = read(config());
  CHECK(options.text.projection_dim == 12);
  CHECK(options.vision.num_attention_heads == 3);
  const json gelu{{"text_config", {{"hidden_act", "gelu"}}}};
  CHECK(read(gelu).text.hidden_act == cf::Activation::gelu);
  CHECK(read(gelu).vision.hidden_act == cf::Activation::quick_gelu);
  check_error(
      [&] {
        read({{"vision_config", {{"hidden_act", "relu"}}}});
      },
      R"(config: "vision_config": "hidden_act")", "quick_gelu or gelu, got relu");
  check_error(
      [&] {
        read({{"text_config", {{"hidden_size", 0}}}});
      },
      R"(config: "text_config": "hidden_size")", "0");
  check_error([&] { read({{"projection_dim", "many"}}); }, R"(config: "projection_dim")", "string");
  check_error([&] { read({{"text_config", 3}}); }, R"(config: "text_config")", "object");
}

TEST_CASE("rewards with weights and without combine under captions") {
  const Folder folder;
  const auto bag =
      cf::rewards("clip"_r = cf::ClipScore(folder.path()), "pick"_r = cf::PickScore(folder.path()));
  const cf::ScoreSheet sheet = bag.score(images(), captions());
  CHECK(sheet.failures.empty());
  CHECK(sheet.scores.isfinite().all().item<bool>());
}
