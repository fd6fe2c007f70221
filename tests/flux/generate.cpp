// From prompts to images by FLUX.1: what prompts are, guidance of both kinds, adapters on disk.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/flux/encode_flux_prompts.hpp>
#include <contraflow/pipeline/decoded_rewards.hpp>
#include <contraflow/pipeline/image_generation.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/pipeline/stored_prompts.hpp>
#include <contraflow/reward/combination.hpp>
#include <contraflow/reward/records.hpp>
#include <contraflow/solver/sde.hpp>
#include <contraflow/train/prompts.hpp>

#include "flux/tiny_flux.hpp"
#include "laws/errors.hpp"

namespace cf = contraflow;
namespace flux = cf::flux;
using namespace cf::literals;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

const std::vector<std::string> captions{"a cat", "two dogs", ""};
const std::vector<std::int64_t> shape{16, 4, 6};

const flux::Folder& folder() {
  static const flux::Folder folder(tiny::dev_folder());
  return folder;
}
const cf::TextCondition& prompts() {
  static const cf::TextCondition encoded =
      flux::encode_prompts(folder(), captions, {.t5_tokens = 8});
  return encoded;
}

template <class M, class S = cf::DpmSolver<1>>
Tensor latents(M model, const Tensor& noise, double true_scale = 1, const S& solver = {}) {
  cf::Generator generator = cf::seeded(0);
  const auto row = [](std::int64_t i) { return cf::select(prompts(), at::tensor({i}, at::kLong)); };
  return flux::generate(std::move(model), noise, cf::concatenate(row(0), row(1)), row(2),
                        true_scale, folder().grid(4, shape), solver, generator);
}

}  // namespace

TEST_CASE("a prompt is T5's last state and CLIP's state at the end of the text, not projected") {
  const at::NoGradGuard no_gradient;
  const auto clip = folder().clip()->forward(folder().clip_tokenizer().encode(captions).ids);
  CHECK(relative_distance(prompts().pooled, clip.pooled) < 1e-5);
  for (std::int64_t i = 0; i < 3; ++i) {
    const Tensor difference = clip.last_hidden_state[i] - clip.pooled[i];
    CHECK(difference.abs().amax(1).min().item<double>() == 0);
  }
  const Tensor t5 = folder().t5()->forward(folder().t5_tokenizer(8).encode(captions).ids);
  CHECK(relative_distance(prompts().sequence, t5) < 1e-5);
}

TEST_CASE("the window of T5 is the model's, or a shorter one") {
  const flux::Folder schnell(tiny::schnell_folder());
  CHECK(flux::encode_prompts(folder(), {"a"}).sequence.size(1) == 512);
  CHECK(flux::encode_prompts(schnell, {"a"}).sequence.size(1) == 256);
  check_error([&] { flux::encode_prompts(schnell, {"a"}, {.t5_tokens = 257}); }, "t5_tokens",
              "from 1 to 256");
  check_error([&] { flux::encode_prompts(folder(), {"a"}, {.t5_tokens = 0}); }, "t5_tokens",
              "from 1 to 512");
  check_error([&] { flux::encode_prompts(folder(), {}); }, "captions", "at least one");
  std::vector<cf::Warning> warnings;
  flux::encode_prompts(folder(), {"a cat", std::string(99, 'x')}, {.t5_tokens = 20},
                       [&](const cf::Warning& warning) { warnings.push_back(warning); });
  CHECK(warnings.size() == 1);
}

TEST_CASE("stored prompts of FLUX.1 have the bits of all encoded at once") {
  const TemporaryDirectory directory;
  const auto all = flux::encode_prompts(folder(), captions, {.t5_tokens = 24, .at_once = 1});
  const auto store = flux::stored_prompts(folder(), directory / "prompts.safetensors", captions,
                                          flux::PromptOptions{.t5_tokens = 24, .at_once = 4},
                                          [](const cf::Warning&) {});
  const Tensor ids = at::tensor({2, 0}, at::kLong);
  CHECK(same_bits(store->condition(ids).sequence, all.sequence.index_select(0, ids)));
  CHECK(same_bits(store->condition(ids).pooled, all.pooled.index_select(0, ids)));
  const flux::PromptOptions narrow{.t5_tokens = 23};
  CHECK(flux::prompt_source(folder(), narrow) != flux::prompt_source(folder(), {.t5_tokens = 24}));
}

TEST_CASE("both kinds of guidance change an image, and go together") {
  const Tensor noise = flux::image_noise(2, shape, 1);
  const Tensor usual = latents(folder().transformer(), noise);
  CHECK(same_bits(latents(folder().transformer({}, 3.5), noise), usual));
  CHECK(relative_distance(latents(folder().transformer({}, 1), noise), usual) > 1e-3);
  CHECK(relative_distance(latents(folder().transformer(), noise, 4), usual) > 1e-3);
  CHECK(relative_distance(latents(folder().transformer({}, 1), noise, 4),
                          latents(folder().transformer(), noise, 4)) > 1e-3);
  CHECK(relative_distance(latents(folder().transformer(), noise, 1, cf::FlowSde{}), usual) > 1e-3);
}

TEST_CASE("rewards on images score latents of FLUX.1") {
  const Tensor noise = flux::image_noise(2, shape, 1);
  const auto brightness = [](const Tensor& images) { return images.flatten(1).mean(1); };
  const auto vae = folder().vae();
  const Tensor x0 = latents(folder().transformer(), noise), images = vae->decode(x0);
  CHECK(images.sizes() == at::IntArrayRef{2, 3, 32, 48});
  const flux::DecodedRewards decoded(vae, cf::rewards("light"_r = brightness));
  const auto sheet = decoded.score(x0, cf::Captions{"a", "b"});
  CHECK(relative_distance(sheet.scores[0], brightness(images)) < 1e-6);
}

TEST_CASE("adapters of FLUX.1 are read as they are written, in both formats") {
  const TemporaryDirectory directory;
  const auto model = folder().transformer();
  cf::Lora lora(model.module());
  cf::Generator generator = cf::seeded(5);
  lora.add("made", {.rank = 2, .alpha = 3, .targets = flux::lora_options().targets}, generator);
  for (const auto& [name, tensor] : lora.tensors("made")) {
    Tensor(tensor).copy_(laws::floats(tensor.sizes(), name.size()) / 4);
  }
  const Tensor noise = flux::image_noise(2, shape, 1), base = latents(model, noise);
  const auto with = [&](const char* name) {
    return lora.with(std::string(name), [&] { return latents(model, noise); });
  };
  cf::write_peft_lora(directory / "peft", lora.weights("made"));
  cf::write_diffusers_lora(directory / "diffusers", lora.weights("made"));
  lora.add("peft", cf::read_lora(directory / "peft"), "peft");
  lora.add("diffusers", cf::read_lora(directory / "diffusers"), "diffusers");
  CHECK(relative_distance(with("made"), base) > 1e-2);
  CHECK(same_bits(with("peft"), with("made")));
  CHECK(relative_distance(with("diffusers"), with("made")) < 1e-4);
}
