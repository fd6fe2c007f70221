// From prompts to images: what decides the bits and what does not.

#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/pipeline/decoded_rewards.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/list.hpp>
#include <contraflow/reward/records.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/sd3/latent_shape.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/train/prompts.hpp>

#include "laws/compare.hpp"
#include "laws/errors.hpp"
#include "sd3/tiny_folder.hpp"

namespace cf = contraflow;
using namespace cf::literals;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

const std::vector<std::string> captions{"a cat", "two dogs", "rain"};
const std::vector<std::int64_t> shape{16, 4, 6};

const cf::sd3::Folder& folder() {
  static const cf::sd3::Folder folder(tiny::shared_folder());
  return folder;
}
const cf::TextCondition& prompts() {
  static const cf::TextCondition encoded =
      cf::sd3::encode_prompts(folder(), captions, {.t5_tokens = 8});
  return encoded;
}
const cf::TextCondition& negative() {
  static const cf::TextCondition encoded =
      cf::sd3::encode_prompts(folder(), {"ugly"}, {.t5_tokens = 8});
  return encoded;
}

// The transformer, with a note of the batch of each call.
struct Counting {
  cf::Mmdit model;
  std::vector<std::int64_t>* batches;
  Tensor operator()(const Tensor& x, const Tensor& t, const cf::TextCondition& condition) {
    batches->push_back(x.size(0));
    CHECK(cf::batch_size(condition) == x.size(0));
    return model(x, t, condition);
  }
};

template <class M, class S = cf::DpmSolver<1>>
Tensor latents(M model, const Tensor& noise, const cf::TextCondition& condition, double scale,
               const S& solver = {}, std::uint64_t seed = 0) {
  cf::Generator generator = cf::seeded(seed);
  return cf::sd3::generate(std::move(model), noise, condition, negative(), scale, folder().grid(4),
                           solver, generator);
}
cf::TextCondition row(std::int64_t i) { return cf::select(prompts(), at::tensor({i}, at::kLong)); }

}  // namespace

TEST_CASE("latents have the size of the image, which is a multiple of what a patch covers") {
  const auto vae = folder().autoencoder_options();
  const auto transformer = folder().transformer_options();
  const auto of = [&](std::int64_t height, std::int64_t width) {
    return cf::sd3::latent_shape(height, width, vae, transformer);
  };
  CHECK(of(64, 96) == std::vector<std::int64_t>{16, 8, 12});
  CHECK(of(16, 384) == std::vector<std::int64_t>{16, 2, 48});
  const std::string expected = "a positive multiple of 16 up to 384";
  for (const std::int64_t side : {0, -16, 8, 24, 100, 388, 400}) {
    check_error([&] { of(side, 64); }, "height", expected + ", got " + std::to_string(side));
    check_error([&] { of(64, side); }, "width", expected + ", got " + std::to_string(side));
  }
  CHECK(cf::sd3::latent_shape(512, 512, cf::VaeOptions{}, cf::MmditOptions{}) ==
        std::vector<std::int64_t>{16, 64, 64});
}

TEST_CASE("each image has noise of its own") {
  const Tensor three = cf::sd3::image_noise(3, shape, 5);
  CHECK(three.sizes() == at::IntArrayRef{3, 16, 4, 6});
  CHECK(same_bits(cf::sd3::image_noise(2, shape, 5), three.narrow(0, 0, 2)));
  CHECK(same_bits(cf::sd3::image_noise(3, shape, 5), three));
  CHECK_FALSE(same_bits(three[0], three[1]));
  CHECK_FALSE(same_bits(cf::sd3::image_noise(1, shape, 6)[0], three[0]));
  CHECK(std::abs(three.mean().item<double>()) < 0.1);
  CHECK(std::abs(three.std().item<double>() - 1) < 0.1);
  CHECK(cf::sd3::image_noise(1, shape, 5, at::kHalf).scalar_type() == at::kHalf);
}

TEST_CASE("an image does not depend on the others of its batch") {
  const cf::Mmdit model = folder().transformer();
  const Tensor noise = cf::sd3::image_noise(3, shape, 1);
  const Tensor together = latents(model, noise, prompts(), 4.5);
  const auto vae = folder().vae();
  const Tensor images = vae->decode(together);
  CHECK(relative_distance(vae->decode(together, 3), images) < 1e-5);
  for (std::int64_t i = 0; i < 3; ++i) {
    const Tensor alone = latents(model, noise.narrow(0, i, 1), row(i), 4.5);
    CHECK(relative_distance(alone, together.narrow(0, i, 1)) < 1e-4);
    CHECK(relative_distance(vae->decode(alone), images.narrow(0, i, 1)) < 1e-4);
  }
  CHECK(relative_distance(together.narrow(0, 0, 1), together.narrow(0, 1, 1)) > 0.01);
}

TEST_CASE("the same seed gives the same bits") {
  const cf::Mmdit model = folder().transformer();
  const Tensor noise = cf::sd3::image_noise(2, shape, 1);
  const cf::TextCondition two = cf::select(prompts(), at::tensor({0, 2}, at::kLong));
  const auto run = [&](const auto& solver, std::uint64_t seed) {
    return latents(model, noise, two, 4.5, solver, seed);
  };
  CHECK(same_bits(run(cf::DpmSolver<1>{}, 0), run(cf::DpmSolver<1>{}, 1)));
  CHECK(same_bits(run(cf::FlowSde{}, 3), run(cf::FlowSde{}, 3)));
  CHECK_FALSE(same_bits(run(cf::FlowSde{}, 3), run(cf::FlowSde{}, 4)));
  CHECK_FALSE(same_bits(run(cf::DpmSolver<2>{}, 0), run(cf::DpmSolver<1>{}, 0)));
}

TEST_CASE("guidance doubles the batch of a step, and does not run at a scale of at most 1") {
  const Tensor noise = cf::sd3::image_noise(3, shape, 1);
  std::vector<std::int64_t> batches;
  const Counting model{folder().transformer(), &batches};
  const Tensor plain = latents(model, noise, prompts(), 1);
  CHECK(batches == std::vector<std::int64_t>(4, 3));
  batches.clear();
  CHECK(same_bits(latents(model, noise, prompts(), 0.5), plain));
  CHECK(batches == std::vector<std::int64_t>(4, 3));
  batches.clear();
  const Tensor guided = latents(model, noise, prompts(), 3);
  CHECK(batches == std::vector<std::int64_t>(4, 6));
  CHECK(relative_distance(guided, plain) > 0.01);
  CHECK_FALSE(guided.requires_grad());
}

TEST_CASE("guidance is u + scale (c - u)") {
  cf::Mmdit model = folder().transformer();
  const at::NoGradGuard no_gradient;
  const Tensor x = cf::sd3::image_noise(2, shape, 1), t = at::full({2}, 0.7);
  const cf::TextCondition two = cf::select(prompts(), at::tensor({0, 1}, at::kLong));
  cf::Guided<cf::Mmdit, cf::TextCondition> guided(model, negative(), 3.0);
  const Tensor c = model(x, t, two), u = model(x, t, cf::repeat(negative(), 2));
  CHECK(relative_distance(guided(x, t, two), u + 3 * (c - u)) < 1e-5);
}

TEST_CASE("a transformer in half precision is stepped in float32") {
  const Tensor noise = cf::sd3::image_noise(1, shape, 1);
  const Tensor full = latents(folder().transformer(), noise, row(0), 2);
  const Tensor half = latents(folder().transformer({.dtype = at::kBFloat16}), noise, row(0), 2);
  CHECK(half.scalar_type() == at::kFloat);
  CHECK(relative_distance(half, full) < 0.1);
  CHECK_FALSE(same_bits(half, full));
}

TEST_CASE("rewards on images see decoded latents and the captions of their prompts") {
  const auto vae = folder().vae();
  int calls = 0;
  const auto length = [&](const Tensor& images, const cf::Captions& texts) {
    ++calls;
    CHECK(images.sizes() == at::IntArrayRef{3, 3, 32, 48});
    std::vector<float> scores;
    for (const std::string& text : texts) scores.push_back(float(text.size()));
    return at::tensor(scores);
  };
  const auto brightness = [](const Tensor& images) { return images.flatten(1).mean(1); };
  const cf::sd3::DecodedRewards decoded(
      vae, cf::rewards("length"_r = length, "light"_r = cf::weighted(brightness, 2)));
  static_assert(cf::RewardBag<decltype(decoded)>);
  const Tensor x = cf::sd3::image_noise(3, shape, 2);
  const cf::PromptRows all(prompts(), captions);
  const auto sheet = decoded.score(x, cf::reference_of(all, at::tensor({2, 0, 2}, at::kLong)));
  CHECK(calls == 1);
  CHECK(same_bits(sheet.scores[0], at::tensor({4.0, 5.0, 4.0}, at::kDouble)));
  CHECK(relative_distance(sheet.scores[1], brightness(vae->decode(x))) < 1e-6);
  CHECK(same_bits(decoded.combine(sheet.scores), sheet.scores[0] + 2 * sheet.scores[1]));
  CHECK(same_bits(decoded.combine_raw(sheet.scores), decoded.combine(sheet.scores)));
}

TEST_CASE("latents are decoded once for all rewards, whatever these are told of the prompts") {
  const auto vae = folder().vae();
  const Tensor x = cf::sd3::image_noise(2, shape, 2);
  std::vector<Tensor> seen;
  const auto judge = [&](const Tensor& images, const cf::Records& records) {
    seen.push_back(images);
    return std::vector<double>{records.at(0)["count"].get<double>(), 0};
  };
  const auto length = [&](const Tensor& images, const cf::Captions& texts) {
    seen.push_back(images);
    return std::vector<double>{double(texts.at(0).size()), double(texts.at(1).size())};
  };
  cf::RewardList<cf::Records> list;
  list.add("judge", judge);
  list.add("length", cf::OnCaptions(length));
  const cf::sd3::DecodedRewards decoded(vae, list);
  const cf::Records records{{{"prompt", "two cats"}, {"count", 2}}, {{"prompt", ""}}};
  const auto sheet = decoded.score(x, records);
  CHECK(sheet.failures.empty());
  CHECK(same_bits(sheet.scores, at::tensor({2.0, 0.0, 8.0, 0.0}, at::kDouble).view({2, 2})));
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].is_same(seen[1]));

  INFO("and a reward of the wrong size ends the run");
  const cf::sd3::DecodedRewards broken(
      vae, cf::as_rewards([](const Tensor& images) { return images.mean(); }));
  check_error([&] { broken.score(x, records); }, "reward reward", "one score a sample");
}
