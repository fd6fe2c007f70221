// An adapter of any names, shapes and configuration is read or refused: as a folder of peft, and as
// one file with the configuration in it. Parts: the configuration; the tensors, see
// safetensors_of().

#include <string>
#include <string_view>

#include <contraflow/pipeline/lora_files.hpp>

#include "fuzz/harness.hpp"

namespace {

void read(const std::filesystem::path& path) {
  fuzz::read_or_refuse([&] {
    const auto weights = contraflow::read_lora(path, contraflow::EncoderParts::leave_out);
    fuzz::expects_law(!weights.tensors.empty());
    for (const auto& [name, tensor] : weights.tensors) fuzz::expects_law(tensor.defined());
  });
}

}  // namespace

CONTRAFLOW_FUZZ_PROGRAM(adapters, input) {
  static const fuzz::Folder peft, single;
  const auto [config, tensors] = fuzz::parts<2>(input);
  peft.write("adapter_config.json", config);
  peft.write("adapter_model.safetensors", fuzz::safetensors_of(tensors));
  read(peft.path());
  std::string line = config;
  std::replace(line.begin(), line.end(), '\n', ' ');
  const std::string metadata = line.empty() ? "" : "@lora_adapter_metadata " + line + "\n";
  read(single.write("one.safetensors", fuzz::safetensors_of(metadata + tensors)));
}
