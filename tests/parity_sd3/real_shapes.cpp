// Names and shapes of the networks of Stable Diffusion 3.5 Medium, without their memory.

#include <contraflow/network/clip.hpp>
#include <contraflow/network/mmdit_network.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/sd3/config.hpp>

#include "parity_sd3/report.hpp"

namespace parity {

namespace {

std::unique_ptr<torch::nn::Module> real_network(const std::string& name) {
  if (name == "transformer") return std::make_unique<cf::MmditNetwork>(cf::MmditOptions{});
  if (name == "vae") return std::make_unique<cf::Vae>(cf::VaeOptions{});
  if (name == "text_encoder") return std::make_unique<cf::ClipText>(cf::clip_l_text());
  if (name == "text_encoder_2") return std::make_unique<cf::ClipText>(cf::clip_g_text());
  if (name == "text_encoder_3") return std::make_unique<cf::T5Encoder>(cf::T5Options{});
  throw cf::Error("real_shapes.json", "known networks", name);
}

}  // namespace

void check_real_shapes(const Fixtures& fixtures, Report& report) {
  report.section("real_shapes", [&] {
    const cf::Settings shapes(fixtures / "real_shapes.json");
    for (const auto& entry : shapes.json().items()) {
      check_shapes(report, entry.key(), *real_network(entry.key()), entry.value());
    }
  });
}

}  // namespace parity
