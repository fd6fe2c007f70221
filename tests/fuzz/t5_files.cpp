// A model of T5's tokenizer of any bytes makes a tokenizer or is refused: tokenizer.json where they
// begin with a brace, else spiece.model.

#include <string_view>

#include <contraflow/text/t5_tokenizer.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(t5_files, input) {
  static const fuzz::Folder folder;
  const auto file = folder.write(input.starts_with('{') ? "tokenizer.json" : "spiece.model", input);
  const contraflow::T5Tokenizer tokenizer(file, 16);
  const auto tokens = tokenizer.encode("a  photo of \xEF\xBC\x92 caf\xC3\xA9s");
  fuzz::expects_law(tokens.ids.size() == 16);
  for (const auto id : tokens.ids) fuzz::expects_law(id >= 0 && id < tokenizer.vocabulary_size());
}
