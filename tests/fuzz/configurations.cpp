// A config.json of any bytes gives the shape of a network or is refused, for all networks; and so
// are a scheduler's, an index of weights, the settings of a judge, and a model's folder.

#include <string_view>

#include <contraflow/flux/flux_folder.hpp>
#include <contraflow/reward/chat_judge.hpp>
#include <contraflow/sd3/folder.hpp>

#include "fuzz/harness.hpp"

CONTRAFLOW_FUZZ_PROGRAM(configurations, input) {
  namespace cf = contraflow;
  static const fuzz::Folder folder;
  for (const char* name : {"transformer", "scheduler"}) {
    std::filesystem::create_directory(folder.path() / name);
  }
  const cf::Settings settings(folder.write("transformer/config.json", input));
  folder.write("scheduler/scheduler_config.json", input);
  fuzz::read_or_refuse([&] { cf::sd3::mmdit_options(settings); });
  fuzz::read_or_refuse([&] { cf::flux::network_options(settings); });
  fuzz::read_or_refuse([&] { cf::clip_options(settings); });
  fuzz::read_or_refuse([&] { cf::clip_text_options(settings); });
  fuzz::read_or_refuse([&] { cf::t5_options(settings); });
  fuzz::read_or_refuse([&] { cf::vae_options(settings); });
  fuzz::read_or_refuse([&] { cf::safetensors::shards_of(settings); });
  fuzz::read_or_refuse([&] { cf::read_chat_judge(folder.path() / "transformer/config.json"); });
  fuzz::read_or_refuse([&] { cf::sd3_grid(4, cf::sd3::grid_options(settings)); });
  fuzz::read_or_refuse([&] { cf::flux::grid(4, 64, cf::flux::grid_options(settings)); });
  fuzz::read_or_refuse([&] { cf::sd3::Folder(folder.path()).transformer_options(); });
  fuzz::read_or_refuse([&] { cf::flux::Folder(folder.path()).most_t5_tokens(); });
  fuzz::read_or_refuse([&] { cf::pipeline::recognised(folder.path() / "transformer"); });
}
