// The autoencoder: parts of a batch, halves of the network, names of older files, gradients, bad
// input.

#include <catch2/catch_test_macros.hpp>

#include <contraflow/io/safetensors.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/network/vae_config.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;

namespace {

cf::VaeOptions options() {
  return cf::vae_options(cf::Settings(CONTRAFLOW_TEST_DATA "/sd3/vae/config.json"));
}
std::map<std::string, Tensor> weights() {
  return cf::read_safetensors(CONTRAFLOW_TEST_DATA "/sd3/vae/model.safetensors").tensors;
}

cf::Vae vae(cf::VaeParts parts = cf::VaeParts::both, const cf::Placement& placement = {}) {
  cf::Vae network(options(), parts);
  cf::load_weights(network, cf::vae_weights(weights(), parts), "vae", placement);
  cf::set_trainable(network, false);
  return network;
}

Tensor latents() { return laws::floats({3, 16, 3, 4}); }

}  // namespace

TEST_CASE("an image does not depend on how many are decoded at once") {
  const cf::Vae network = vae();
  const Tensor one = network.decode(latents());
  CHECK(one.sizes() == at::IntArrayRef{3, 3, 24, 32});
  CHECK(at::equal(network.decode(latents().narrow(0, 1, 1)), one.narrow(0, 1, 1)));
  CHECK(one.min().item<double>() >= 0);
  CHECK(one.max().item<double>() <= 1);
  CHECK(relative_distance(network.decode(latents(), 2), one) < 1e-5);
  CHECK(relative_distance(network.decode(latents(), 7), one) < 1e-5);
  CHECK(relative_distance(network.moments(one, 3), network.moments(one)) < 1e-5);
}

TEST_CASE("computing in place changes nothing") {
  const cf::Vae network = vae();
  const Tensor z = latents(), before = z.clone();
  const Tensor kept = network.decode(z);
  const at::NoGradGuard no_gradient;
  CHECK(relative_distance(network.decode(z), kept) < 1e-6);
  CHECK(at::equal(z, before));
  const Tensor image = kept.detach(), copy = image.clone();
  network.encode(image);
  CHECK(at::equal(image, copy));
}

TEST_CASE("the decoder alone decodes as both do, and does not encode") {
  cf::Vae alone = vae(cf::VaeParts::decoder);
  CHECK(at::equal(alone.decode(latents()), vae().decode(latents())));
  CHECK(cf::weight_count(alone) < cf::weight_count(vae()));
  check_error(
      [&] {
        alone.encode(at::zeros({1, 3, 24, 32}));
      },
      "vae", "an encoder, for encoding, got a decoder alone");
  check_error([&] { cf::load_weights(alone, weights(), "file"); }, "file",
              "unexpected: encoder.conv_in.bias, encoder.conv_in.weight");
}

TEST_CASE("the names of older files are understood") {
  auto old = weights();
  const auto rename = [&](const std::string& from, const std::string& to) {
    for (const std::string part : {"encoder", "decoder"}) {
      for (const std::string kind : {".weight", ".bias"}) {
        auto node = old.extract(part + ".mid_block.attentions.0." + from + kind);
        REQUIRE(node);
        node.key() = part + ".mid_block.attentions.0." + to + kind;
        old.insert(std::move(node));
      }
    }
  };
  rename("to_q", "query");
  rename("to_k", "key");
  rename("to_v", "value");
  rename("to_out.0", "proj_attn");
  cf::Vae network(options());
  cf::load_weights(network, cf::vae_weights(old), "old");
  CHECK(at::equal(network.decode(latents()), vae().decode(latents())));
}

TEST_CASE("encoding scales what decoding scales back, and samples around the mean") {
  const cf::Vae network = vae();
  const Tensor images = network.decode(latents());
  const Tensor found = network.moments(images);
  const Tensor mean = found.narrow(1, 0, 16), log_variance = found.narrow(1, 16, 16);
  CHECK(relative_distance(network.encode(images) / 1.5305 + 0.0609, mean) < 1e-5);
  cf::Generator generator = cf::seeded(4), again = cf::seeded(4);
  const Tensor noise = cf::normal_like(mean, again);
  const Tensor sampled = network.sample(images, generator) / 1.5305 + 0.0609;
  CHECK(relative_distance((sampled - mean) / (log_variance / 2).exp(), noise) < 1e-3);
}

TEST_CASE("gradients pass through decoding and encoding") {
  const cf::Vae network = vae();
  Tensor z = latents().requires_grad_();
  const Tensor images = network.decode(z);
  network.encode(images).square().sum().backward();
  REQUIRE(z.grad().defined());
  CHECK(z.grad().isfinite().all().item<bool>());
  CHECK(z.grad().norm().item<double>() > 0);
}

TEST_CASE("half precision gives images in float32") {
  const cf::Vae half = vae(cf::VaeParts::both, {.dtype = at::kBFloat16});
  const Tensor images = half.decode(latents());
  CHECK(images.scalar_type() == at::kFloat);
  CHECK(relative_distance(images, vae().decode(latents())) < 0.1);
  CHECK(half.encode(images).scalar_type() == at::kFloat);
}

TEST_CASE("convolutions around the latents, for models that have them") {
  auto with = options();
  with.use_quant_conv = with.use_post_quant_conv = true;
  cf::Vae network(with);
  auto given = weights();
  given["quant_conv.weight"] = at::eye(32).view({32, 32, 1, 1});
  given["quant_conv.bias"] = at::zeros({32});
  given["post_quant_conv.weight"] = 2 * at::eye(16).view({16, 16, 1, 1});
  given["post_quant_conv.bias"] = at::zeros({16});
  cf::load_weights(network, given, "test");
  const Tensor code = latents();
  CHECK(relative_distance(network.decoded(code), vae().decoded(2 * code)) < 1e-6);
  const Tensor images = vae().decode(code);
  CHECK(relative_distance(network.moments(images), vae().moments(images)) < 1e-6);
  CHECK(cf::vae_weights(given, cf::VaeParts::decoder).contains("post_quant_conv.bias"));
  CHECK_FALSE(cf::vae_weights(given, cf::VaeParts::decoder).contains("quant_conv.bias"));
}

TEST_CASE("the autoencoder names what is wrong") {
  const cf::Vae network = vae();
  check_error(
      [&] {
        network.decode(at::zeros({1, 4, 3, 4}));
      },
      "latents", "shape [B, 16, H, W], got [1, 4, 3, 4]");
  check_error([&] { network.decode(latents(), 0); }, "at_once", "at least 1, got 0");
  check_error(
      [&] {
        network.encode(at::zeros({1, 3, 20, 32}));
      },
      "images", "shape [B, 3, H, W] with H and W multiples of 8, got [1, 3, 20, 32]");
  check_error(
      [&] {
        network.encode(at::zeros({1, 3, 24, 32}, at::kByte));
      },
      "images", "a floating-point tensor, got Byte");
  auto wrong = options();
  wrong.norm_num_groups = 5;
  check_error([&] { cf::Vae net(wrong); }, "groups", "a divisor of the channels, got 5");
  wrong = options();
  wrong.block_out_channels = {};
  check_error([&] { cf::Vae net(wrong); }, "block_out_channels", "1 to 16 levels, got 0");
  wrong = options();
  wrong.scaling_factor = 0;
  check_error([&] { cf::Vae net(wrong); }, "scaling_factor", "not 0, got 0");
}
