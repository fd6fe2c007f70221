// CLIP: pooling, causality, the vision tower against plain operations, published sizes, bad input.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/network/clip.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

cf::ClipTextOptions text_options() {
  return {.vocab_size = 20,
          .max_position_embeddings = 8,
          .hidden_size = 12,
          .intermediate_size = 20,
          .projection_dim = 6,
          .num_hidden_layers = 3,
          .num_attention_heads = 2};
}

cf::ClipVisionOptions vision_options() {
  return {.image_size = 12,
          .patch_size = 4,
          .hidden_size = 12,
          .intermediate_size = 20,
          .projection_dim = 6,
          .num_hidden_layers = 2,
          .num_attention_heads = 3};
}

template <class N>
void fill(N& network) {
  cf::Generator generator = cf::seeded(1);
  // No value that hides a mistake: no zero biases, no unit scales.
  const auto draw = [](const std::string&, at::IntArrayRef shape, cf::Generator& g) {
    return cf::normal(shape, g) * 0.4 + 0.1;
  };
  cf::initialise(network, generator, draw);
  cf::move_weights(network, {.dtype = at::kDouble});
}

Tensor ids(std::initializer_list<std::int64_t> row) {
  return at::tensor(std::vector<std::int64_t>(row), at::kLong).unsqueeze(0);
}

}  // namespace

TEST_CASE("a text is pooled at its end, and what follows does not matter") {
  cf::ClipText largest(text_options());
  fill(largest);
  const Tensor padded = ids({18, 4, 7, 19, 0, 0}), others = ids({18, 4, 7, 19, 5, 19});
  const Tensor pooled = largest.forward(padded).pooled;
  CHECK(relative_distance(largest.forward(others).pooled, pooled) < 1e-12);
  CHECK(relative_distance(largest.forward(ids({18, 4, 7, 19})).pooled, pooled) < 1e-12);
  CHECK(relative_distance(largest.forward(ids({18, 4, 8, 19})).pooled, pooled) > 1e-3);

  auto options = text_options();
  options.eos_token_id = 7;
  cf::ClipText named(options);
  fill(named);
  CHECK(relative_distance(named.forward(padded).pooled, named.forward(ids({18, 4, 7})).pooled) <
        1e-12);
  CHECK(relative_distance(named.forward(padded).pooled, pooled) > 1e-3);
}

TEST_CASE("the penultimate state is that of a network with one layer less") {
  cf::ClipText whole(text_options());
  fill(whole);
  auto options = text_options();
  options.num_hidden_layers -= 1;
  cf::ClipText shorter(options);
  auto weights = cf::named_weights(whole);
  std::erase_if(
      weights, [](const auto& item) { return item.first.find(".layers.2.") != std::string::npos; });
  cf::load_weights(shorter, weights, "test");
  const Tensor tokens = ids({18, 4, 7, 19});
  const Tensor normalised = at::layer_norm(whole.forward(tokens).penultimate, {12},
                                           weights.at("text_model.final_layer_norm.weight"),
                                           weights.at("text_model.final_layer_norm.bias"), 1e-5);
  CHECK(relative_distance(shorter.forward(tokens).last_hidden_state, normalised) < 1e-12);
}

TEST_CASE("the vision tower is what plain operations make of its weights") {
  cf::ClipVision network(vision_options());
  fill(network);
  const auto weights = cf::named_weights(network);
  const auto get = [&](const std::string& name) { return weights.at("vision_model." + name); };
  const auto norm = [&](const std::string& name, const Tensor& x) {
    const Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-5).sqrt() * get(name + ".weight") +
           get(name + ".bias");
  };
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return at::matmul(x, get(name + ".weight").t()) + get(name + ".bias");
  };
  const Tensor pixels = laws::doubles({2, 3, 12, 12});
  // Patches by hand: [B, 3, 3, 4, 3, 4] to [B, 9, 48].
  const Tensor patches =
      pixels.view({2, 3, 3, 4, 3, 4}).permute({0, 2, 4, 1, 3, 5}).reshape({2, 9, 48});
  const Tensor embedded =
      at::matmul(patches, get("embeddings.patch_embedding.weight").flatten(1).t());
  const Tensor token = get("embeddings.class_embedding").expand({2, 1, 12});
  Tensor x = at::cat({token, embedded}, 1) + get("embeddings.position_embedding.weight");
  x = norm("pre_layrnorm", x);
  for (const std::string layer : {"encoder.layers.0.", "encoder.layers.1."}) {
    const Tensor y = norm(layer + "layer_norm1", x);
    const auto heads = [&](const char* name) {
      return linear(layer + "self_attn." + name, y).view({2, 10, 3, 4}).transpose(1, 2);
    };
    const Tensor share = (at::matmul(heads("q_proj"), heads("k_proj").transpose(2, 3)) / 2);
    const Tensor found = at::matmul(share.softmax(-1), heads("v_proj"));
    x = x + linear(layer + "self_attn.out_proj", found.transpose(1, 2).reshape({2, 10, 12}));
    const Tensor wide = linear(layer + "mlp.fc1", norm(layer + "layer_norm2", x));
    x = x + linear(layer + "mlp.fc2", wide / (1 + (wide * -1.702).exp()));
  }
  const Tensor expected = at::matmul(norm("post_layernorm", x.select(1, 0)),
                                     weights.at("visual_projection.weight").t());
  CHECK(relative_distance(network.forward(pixels), expected) < 1e-12);
}

TEST_CASE("both towers together are the towers alone") {
  cf::Clip both({text_options(), vision_options()});
  fill(both);
  const auto weights = cf::named_weights(both);
  const auto only = [&](const std::vector<std::string>& prefixes) {
    std::map<std::string, Tensor> kept;
    for (const auto& [name, weight] : weights) {
      for (const auto& prefix : prefixes) {
        if (name.starts_with(prefix)) kept.emplace(name, weight);
      }
    }
    return kept;
  };
  cf::ClipText text(text_options());
  cf::load_weights(text, only({"text_"}), "test");
  cf::ClipVision vision(vision_options());
  cf::load_weights(vision, only({"vision_", "visual_"}), "test");
  const Tensor tokens = ids({18, 4, 7, 19}), pixels = laws::doubles({2, 3, 12, 12});
  CHECK(at::equal(both.text_embedding(tokens), text.forward(tokens).pooled));
  CHECK(at::equal(both.image_embedding(pixels), vision.forward(pixels)));
  CHECK(at::equal(both.scale(), weights.at("logit_scale").exp()));
}

TEST_CASE("published sizes have the published numbers of weights") {
  CHECK(cf::weight_count(cf::Clip(cf::ClipOptions{})) == 427'616'513);
  CHECK(cf::weight_count(cf::Clip(cf::clip_vit_h14())) == 986'109'441);
}

TEST_CASE("the position numbers of older files are no weights") {
  auto weights = cf::clip_weights({{"text_model.embeddings.position_ids", at::arange(8)},
                                   {"vision_model.embeddings.position_ids", at::arange(8)},
                                   {"logit_scale", at::ones({})}});
  CHECK(weights.size() == 1);
  CHECK(weights.contains("logit_scale"));
}

TEST_CASE("CLIP names what is wrong") {
  auto options = text_options();
  options.num_attention_heads = 5;
  check_error([&] { cf::ClipText net(options); }, "num_attention_heads",
              "a divisor of hidden_size, got 5");
  auto vision = vision_options();
  vision.image_size = 13;
  check_error([&] { cf::ClipVision net(vision); }, "image_size",
              "a multiple of patch_size, got 13");
  vision = vision_options();
  vision.projection_dim = 7;
  check_error(
      [&] {
        cf::Clip net({text_options(), vision});
      },
      "projection_dim", "the same for text and vision, got 6");
  cf::ClipText net(text_options());
  fill(net);
  check_error(
      [&] {
        net.forward(at::zeros({1, 9}, at::kLong));
      },
      "ids", "shape [B, L] with L up to 8, got [1, 9]");
  check_error([&] { net.forward(ids({3, 20})); }, "ids", "tokens in [0, 20), got 20");
  check_error([&] { net.forward(ids({3, -1})); }, "ids", "tokens in [0, 20), got -1");
  check_error([&] { net.forward(at::zeros({1, 3})); }, "ids", "dtype Long, got Float");
  cf::ClipVision tower(vision_options());
  check_error(
      [&] {
        tower.forward(at::zeros({1, 3, 12, 16}));
      },
      "pixels", "shape [B, 3, 12, 12], got [1, 3, 12, 16]");
}
