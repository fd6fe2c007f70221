// A folder of CLIP's tokenizer with any files makes a tokenizer or is refused. Parts:
// tokenizer.json, vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json; an empty
// one is missing.

#include <string_view>

#include <contraflow/text/clip_tokenizer.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(clip_files, input) {
  static const fuzz::Folder folder;
  const auto files = fuzz::parts<5>(input);
  constexpr std::array names{"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
                             "special_tokens_map.json"};
  for (std::size_t i = 0; i < names.size(); ++i) folder.write(names[i], files[i]);
  const contraflow::ClipTokenizer tokenizer(folder.path());
  const auto tokens = tokenizer.encode("the a aa<|endoftext|> 2 dogs' !!!<pad>");
  fuzz::expects_law(std::int64_t(tokens.ids.size()) == tokenizer.length());
  for (const auto id : tokens.ids) fuzz::expects_law(id >= 0 && id < tokenizer.vocabulary_size());
}
