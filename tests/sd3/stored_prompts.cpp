// Prompts that are encoded when they are drawn: the bits of all at once, and fresh encoders.

#include <string>
#include <vector>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/pipeline/stored_prompts.hpp>
#include <contraflow/sd3/encode_prompts.hpp>

#include "laws/compare.hpp"
#include "sd3/tiny_folder.hpp"

namespace cf = contraflow;
using cf::Tensor;
using laws::same_bits;

TEST_CASE("stored prompts have the bits of all encoded at once, whatever is drawn together") {
  const TemporaryDirectory directory;
  const std::vector<std::string> captions{"a cat", "", "two dogs in the rain", "a house", "x"};
  const cf::sd3::Folder folder(tiny::shared_folder());
  const cf::TextCondition all =
      cf::sd3::encode_prompts(folder, captions, {.t5_tokens = 24, .at_once = 1});
  const auto store = cf::sd3::stored_prompts(folder, directory / "prompts.safetensors", captions,
                                             cf::sd3::PromptOptions{.t5_tokens = 24, .at_once = 4},
                                             [](const cf::Warning&) {});
  for (const std::vector<std::int64_t>& drawn :
       {std::vector<std::int64_t>{3}, {0, 4, 3}, {2, 1, 0, 4, 3}}) {
    const Tensor ids = at::tensor(drawn, at::kLong);
    CHECK(same_bits(store->condition(ids).sequence, all.sequence.index_select(0, ids)));
    CHECK(same_bits(store->condition(ids).pooled, all.pooled.index_select(0, ids)));
  }
}

TEST_CASE("stored prompts of encoders that were replaced are encoded anew, cuts are told of once") {
  const TemporaryDirectory directory;
  const tiny::OwnFolder own;
  const std::string longer(400, 'a');
  int warnings = 0;
  const auto condition = [&] {
    return cf::sd3::stored_prompts(cf::sd3::Folder(own.path()), directory / "prompts.safetensors",
                                   {"a cat", longer}, cf::sd3::PromptOptions{.t5_tokens = 24},
                                   [&](const cf::Warning&) { ++warnings; })
        ->condition(at::arange(2, at::kLong));
  };
  const cf::TextCondition before = condition();
  CHECK(warnings == 3);
  CHECK(same_bits(condition().sequence, before.sequence));
  CHECK(warnings == 3);
  // Other weights, of the same size.
  cf::sd3::write_random_folder(directory / "other", cf::sd3::tiny_folder(1));
  for (const char* encoder : {"text_encoder", "text_encoder_2", "text_encoder_3"}) {
    const std::string file = std::string(encoder) + "/model.safetensors";
    const std::string bytes = read_all(own / file);
    write_all(own / file, read_all(directory / ("other/" + file)));
    const cf::TextCondition after = condition();
    CHECK_FALSE(same_bits(after.sequence, before.sequence));
    const cf::TextCondition fresh = cf::sd3::encode_prompts(
        cf::sd3::Folder(own.path()), {"a cat", longer}, {.t5_tokens = 24, .at_once = 1});
    CHECK(same_bits(after.sequence, fresh.sequence));
    CHECK(same_bits(after.pooled, fresh.pooled));
    write_all(own / file, bytes);
  }
  CHECK(same_bits(condition().sequence, before.sequence));
}
