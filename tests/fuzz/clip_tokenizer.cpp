// Any bytes are a caption, and give ids of the vocabulary.

#include <string>
#include <string_view>

#include <contraflow/text/clip_tokenizer.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(clip_tokenizer, input) {
  static const auto tokenizer =
      contraflow::ClipTokenizer::from_merges({"t h", "th e</w>", "a a", "aa a</w>"}, {.pad = "!"});
  const auto tokens = tokenizer.encode(std::string(input));
  fuzz::expects_law(tokens.ids.size() == 77);
  for (const auto id : tokens.ids) fuzz::expects_law(id >= 0 && id < tokenizer.vocabulary_size());
}
