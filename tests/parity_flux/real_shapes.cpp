// Names and shapes of the networks of FLUX.1, without their memory.

#include <contraflow/network/clip.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/vae.hpp>

#include "parity_flux/report.hpp"

namespace parity {

namespace {

std::unique_ptr<torch::nn::Module> real_network(const std::string& name) {
  if (name == "transformer") return std::make_unique<cf::FluxNetwork>(cf::FluxOptions{});
  if (name == "transformer_schnell") {
    return std::make_unique<cf::FluxNetwork>(cf::FluxOptions{.guidance_embeds = false});
  }
  if (name == "vae") return std::make_unique<cf::Vae>(cf::VaeOptions{});
  if (name == "text_encoder") {
    cf::ClipTextOptions options = cf::clip_l_text();
    options.has_projection = false;
    return std::make_unique<cf::ClipText>(options);
  }
  if (name == "text_encoder_2") return std::make_unique<cf::T5Encoder>(cf::T5Options{});
  throw cf::Error("real_shapes_flux.json", "known networks", name);
}

}  // namespace

void check_real_shapes(const Fixtures& fixtures, Report& report) {
  report.section("real_shapes", [&] {
    const cf::Settings shapes(fixtures / "real_shapes_flux.json");
    for (const char* name :
         {"transformer", "transformer_schnell", "vae", "text_encoder", "text_encoder_2"}) {
      cf::expects(shapes.has(name), "real_shapes_flux.json", name, "nothing of that name");
    }
    for (const auto& entry : shapes.json().items()) {
      check_shapes(report, entry.key(), *real_network(entry.key()), entry.value());
    }
  });
}

}  // namespace parity
