// A user's first program with all components of the package.

#include <iostream>
#include <type_traits>

#include <contraflow/distributed/mpi.hpp>
#include <contraflow/flux/flux_folder.hpp>
#include <contraflow/io/image.hpp>
#include <contraflow/model/concept.hpp>
#include <contraflow/reward/concept.hpp>
#include <contraflow/reward/ocr.hpp>
#include <contraflow/reward/remote.hpp>
#include <contraflow/sd3/folder.hpp>
#include <contraflow/text/clip_tokenizer.hpp>

namespace cf = contraflow;

static_assert(cf::Reward<cf::Remote, cf::Captions>);
static_assert(cf::Reward<cf::Ocr, cf::Captions>);
static_assert(cf::Communicator<cf::Mpi>);
static_assert(cf::FlowModel<cf::flux::Model, cf::TextCondition>);

int main() {
  const auto tokenizer = cf::ClipTokenizer::from_merges({});
  const cf::Tensor image = at::ones({3, 8, 8});
  std::cout << tokenizer.encode("a cat").ids.size() << " tokens, " << cf::encode_png(image).size()
            << " bytes\n";
  try {
    const cf::Ocr reader({.language = "no language"});
    return 1;
  } catch (const cf::Error& error) {
    std::cout << error.what() << '\n';
  }
  try {
    const cf::sd3::Folder folder("no folder");
    return 1;
  } catch (const cf::Error& error) {
    std::cout << error.what() << '\n';
  }
  return cf::decode_image(cf::encode_png(image)).equal(image) ? 0 : 1;
}
