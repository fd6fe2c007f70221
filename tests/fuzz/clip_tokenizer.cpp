// Any bytes are a caption, and give ids of the vocabulary.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <contraflow/text/clip_tokenizer.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto tokenizer =
      contraflow::ClipTokenizer::from_merges({"t h", "th e</w>", "a a", "aa a</w>"}, {.pad = "!"});
  const auto tokens = tokenizer.encode(std::string(data, data + size));
  if (tokens.ids.size() != 77) std::abort();
  for (const auto id : tokens.ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
  }
  return 0;
}
