// Prompts: encoded by three encoders, cut with a warning, kept on disk.

#include <filesystem>
#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/reward/records.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/train/prompts.hpp>

#include "laws/compare.hpp"
#include "laws/condition.hpp"
#include "laws/errors.hpp"
#include "laws/prompt_source.hpp"
#include "sd3/tiny_folder.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::check_error;
using laws::relative_distance;
using laws::same_bits;

namespace {

const std::vector<std::string> captions{"a cat", "", "two dogs in the rain"};

const cf::sd3::Folder& folder() {
  static const cf::sd3::Folder folder(tiny::shared_folder());
  return folder;
}
cf::TextCondition encoded(const std::vector<std::string>& texts,
                          const cf::sd3::PromptOptions& options = {.t5_tokens = 24}) {
  return cf::sd3::encode_prompts(folder(), texts, options);
}

}  // namespace

TEST_CASE("the encoders are put together by the rule of Stable Diffusion 3") {
  const cf::TextCondition condition = encoded(captions);
  CHECK(condition.sequence.sizes() == at::IntArrayRef{3, 77 + 24, 48});
  CHECK(condition.pooled.sizes() == at::IntArrayRef{3, 16 + 24});
  const at::NoGradGuard no_gradient;
  const auto clip_l = folder().clip(1)->forward(folder().clip_tokenizer(1).encode(captions).ids);
  const auto clip_g = folder().clip(2)->forward(folder().clip_tokenizer(2).encode(captions).ids);
  const Tensor t5 = folder().t5()->forward(folder().t5_tokenizer(24).encode(captions).ids);
  const Tensor clip = condition.sequence.narrow(1, 0, 77);
  CHECK(relative_distance(clip.narrow(2, 0, 16), clip_l.penultimate) < 1e-5);
  CHECK(relative_distance(clip.narrow(2, 16, 24), clip_g.penultimate) < 1e-5);
  CHECK(same_bits(clip.narrow(2, 40, 8), at::zeros({3, 77, 8})));
  CHECK(relative_distance(condition.sequence.narrow(1, 77, 24), t5) < 1e-5);
  CHECK(relative_distance(condition.pooled, at::cat({clip_l.pooled, clip_g.pooled}, 1)) < 1e-5);
  CHECK_FALSE(condition.sequence.requires_grad());
  laws::condition(condition, [](const cf::TextCondition& a, const cf::TextCondition& b) {
    return same_bits(a.sequence, b.sequence) && same_bits(a.pooled, b.pooled);
  });
}

TEST_CASE("prompts give what encoders made to models, and captions or records to rewards") {
  const auto equal = [](const cf::TextCondition& a, const cf::TextCondition& b) {
    return same_bits(a.sequence, b.sequence) && same_bits(a.pooled, b.pooled);
  };
  const cf::TextCondition condition = encoded(captions);
  const cf::PromptRows prompts(condition, captions);
  laws::prompt_source(prompts, equal);
  const Tensor ids = at::tensor({2, 2, 0}, at::kLong);
  CHECK(prompts.reference(ids) == cf::Captions{captions[2], captions[2], captions[0]});
  CHECK(same_bits(prompts.condition(ids).pooled, condition.pooled.index_select(0, ids)));

  const cf::Records records{{{"prompt", "a cat"}, {"tag", "single"}}, {{"prompt", ""}}};
  const cf::PromptRows recorded(encoded(cf::captions_of(records)), records);
  laws::prompt_source(recorded, equal);
  CHECK(recorded.reference(at::tensor({1, 0}, at::kLong)) == cf::Records{records[1], records[0]});
}

TEST_CASE("a prompt does not depend on those beside it, nor on how many are encoded at once") {
  const cf::TextCondition together = encoded(captions);
  const cf::TextCondition one_by_one = encoded(captions, {.t5_tokens = 24, .at_once = 1});
  const cf::TextCondition alone = encoded({captions[2]});
  CHECK(relative_distance(one_by_one.sequence, together.sequence) < 1e-5);
  CHECK(relative_distance(one_by_one.pooled, together.pooled) < 1e-5);
  CHECK(relative_distance(alone.sequence, together.sequence.narrow(0, 2, 1)) < 1e-5);
  CHECK(relative_distance(encoded({captions[0]}).sequence, alone.sequence) > 0.01);
}

TEST_CASE("a prompt that is longer than a window is cut and warned of") {
  std::string words;
  for (int i = 0; i < 50; ++i) words += "word ";
  std::vector<cf::Warning> warnings;
  const auto warn = [&](const cf::Warning& warning) { warnings.push_back(warning); };
  cf::sd3::encode_prompts(folder(), captions, {.t5_tokens = 24}, warn);
  CHECK(warnings.empty());
  const std::string longer = words + "and something at the end";
  const auto condition =
      cf::sd3::encode_prompts(folder(), {"a cat", longer, words}, {.t5_tokens = 24}, warn);
  REQUIRE(warnings.size() == 6);
  const char* names[] = {"CLIP-L", "CLIP-L", "CLIP-G", "CLIP-G", "T5", "T5"};
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(warnings[i].quantity == "prompt/cut");
    CHECK(warnings[i].value > 0);
    CHECK(warnings[i].message.starts_with(names[i]));
    CHECK(warnings[i].message.find(i % 2 == 0 ? longer : words) != std::string::npos);
  }
  // CLIP's letters: 50 words of 4, and 3 + 9 + 2 + 3 + 3 at the end; 75 fit.
  CHECK(warnings[0].value == 220 - 75);
  CHECK(warnings[1].value == 200 - 75);
  // What was cut off makes no difference.
  CHECK(same_bits(condition.sequence[1], condition.sequence[2]));
}

TEST_CASE("without T5 its place is taken by zeros") {
  const cf::TextCondition with = encoded(captions);
  const cf::TextCondition without = encoded(captions, {.t5_tokens = 24, .with_t5 = false});
  CHECK(same_bits(without.sequence.narrow(1, 0, 77), with.sequence.narrow(1, 0, 77)));
  CHECK(same_bits(without.sequence.narrow(1, 77, 24), at::zeros({3, 24, 48})));
  CHECK(same_bits(without.pooled, with.pooled));
  CHECK_FALSE(same_bits(with.sequence, without.sequence));
  const TemporaryDirectory directory;
  auto options = cf::sd3::tiny_folder();
  options.with_t5 = false;
  cf::sd3::write_random_folder(directory.path(), options);
  const cf::sd3::Folder small(directory.path());
  CHECK_FALSE(small.has_t5());
  const auto condition =
      cf::sd3::encode_prompts(small, captions, {.t5_tokens = 24, .with_t5 = false});
  CHECK(same_bits(condition.sequence, without.sequence));
  check_error([&] { cf::sd3::encode_prompts(small, captions); }, directory.path().string(),
              "a whole model, with tokenizer_3");
}

TEST_CASE("encoders in half precision give nearly the same") {
  const cf::TextCondition full = encoded(captions);
  const cf::TextCondition half =
      encoded(captions,
              {.t5_tokens = 24, .clip = {.dtype = at::kBFloat16}, .t5 = {.dtype = at::kBFloat16}});
  CHECK(half.sequence.scalar_type() == at::kBFloat16);
  CHECK(relative_distance(half.sequence, full.sequence) < 0.05);
  CHECK(relative_distance(half.pooled, full.pooled) < 0.05);
}

TEST_CASE("what prompts were encoded with is told from what would encode them otherwise") {
  const tiny::OwnFolder own;
  const cf::sd3::Folder model(own.path());
  const cf::sd3::PromptOptions options{.t5_tokens = 24};
  const auto source = [&] { return cf::sd3::prompt_source(model, options); };
  const std::string before = source();
  CHECK(cf::sd3::prompt_source(folder(), options) == before);  // another place, the same files
  const auto differs = [&](const std::string& what) {
    INFO(what);
    CHECK(source() != before);
  };
  // One weight of the same size, one entry of a configuration or a tokenizer, a file more.
  for (const char* name : {"text_encoder", "text_encoder_2", "text_encoder_3"}) {
    const auto file = own / (std::string(name) + "/model.safetensors");
    const std::string bytes = read_all(file);
    std::string other = bytes;
    other[other.size() - 2] = char(other[other.size() - 2] ^ 1);
    write_all(file, other);
    differs(name);
    write_all(file, bytes);
    CHECK(source() == before);
  }
  for (const std::string file : {"text_encoder/config.json", "tokenizer/merges.txt",
                                 "tokenizer_2/vocab.json", "tokenizer_3/spiece.model"}) {
    const std::string bytes = read_all(own / file);
    write_all(own / file, bytes + "\n");
    differs(file);
    write_all(own / file, bytes);
    CHECK(source() == before);
  }
  own.change("transformer/config.json", {{"any", 1}});
  CHECK(source() == before);  // does not encode
  CHECK(cf::sd3::prompt_source(model, {.t5_tokens = 25}) != before);
  CHECK(cf::sd3::prompt_source(model, {.t5_tokens = 24, .with_t5 = false}) != before);
  CHECK(cf::sd3::prompt_source(model, {.t5_tokens = 24, .clip = {.dtype = at::kHalf}}) != before);
  CHECK(cf::sd3::prompt_source(model, {.t5_tokens = 24, .t5 = {.dtype = at::kHalf}}) != before);
  CHECK(cf::sd3::prompt_source(model, {.t5_tokens = 24, .at_once = 1}) == before);
  std::filesystem::remove_all(own / "tokenizer_3");
  CHECK(cf::sd3::prompt_source(model, {.t5_tokens = 24, .with_t5 = false}).size() > 0);
  check_error(source, own.path().string(), "a whole model, with tokenizer_3");
}

TEST_CASE("options are checked") {
  check_error([] { encoded({}); }, "captions", "at least one");
  check_error([] { encoded(captions, {.at_once = 0}); }, "at_once", "got 0");
  check_error([] { encoded(captions, {.t5_tokens = 0}); }, "t5_tokens", "got 0");
  const cf::ClipTextOutput clip{{}, at::zeros({1, 2, 4}), at::zeros({1, 4})};
  check_error(
      [&] {
        cf::sd3::combined(clip, clip, at::zeros({1, 2, 7}));
      },
      "t5", "at least as wide");
}
