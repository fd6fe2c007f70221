// A user's first program with the component sd3.

#include <iostream>

#include <contraflow/io/image.hpp>
#include <contraflow/text/clip_tokenizer.hpp>

namespace cf = contraflow;

int main() {
  const auto tokenizer = cf::ClipTokenizer::from_merges({});
  const cf::Tensor image = at::ones({3, 8, 8});
  std::cout << tokenizer.encode("a cat").ids.size() << " tokens, " << cf::encode_png(image).size()
            << " bytes\n";
  return cf::decode_image(cf::encode_png(image)).equal(image) ? 0 : 1;
}
