// Adapters in all formats: outputs with and without, gradients.

#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/lora_files.hpp>

#include "parity_flux/report.hpp"

namespace parity {

namespace {

// A network with the adapter of a file, in use, and what is computed with it.
struct Adapted {
  Adapted(const Fixtures& fixtures, const std::string& format, const std::string& path)
      : network(fixtures.network("transformer")), lora(network) {
    cf::set_trainable(*network, false);
    lora.add("tested", cf::read_lora(fixtures / ("lora/" + path)), format);
    lora.set_trainable("tested", true);
  }
  Tensor velocity(Case& file) const {
    return network->forward(file["hidden_states"],
                            {file["encoder_hidden_states"], file["pooled_projections"]},
                            {file["timestep"], file["guidance"], file["img_ids"]});
  }

  std::shared_ptr<cf::FluxNetwork> network;
  cf::Lora lora;
};

void check_gradients(Report& report, const Adapted& adapted, const std::string& label, Case& file) {
  for (const auto& [name, tensor] : adapted.lora.tensors("tested")) {
    const Tensor gradient = tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
    const Tensor& norm = file["grad_norm/" + name];
    report.compare(label + " grad_norm " + name, gradient.norm(), norm,
                   1e-4 * std::max(1e-3, largest(norm)));
    if (!file.has("grad/" + name)) continue;
    const Tensor& wanted = file["grad/" + name];
    report.compare(label + " grad " + name, gradient, wanted,
                   std::max(1e-6, 1e-5 * largest(wanted)));
  }
}

// One adapter, in the formats of peft and of diffusers.
void check_adapter(const Fixtures& fixtures, Report& report, const std::string& format,
                   Case& file) {
  Adapted adapted(fixtures, format, format);
  const std::string label = "lora/" + format;
  const Tensor& without = file["output_without_adapter"];
  report.compare(label + " output_without_adapter", adapted.velocity(file), without,
                 allowed(without));
  adapted.lora.use("tested");
  const Tensor output = adapted.velocity(file);
  report.compare(label + " output", output, file["output"], allowed(file["output"]));
  const Tensor loss = (output - file["target"]).square().mean();
  report.compare(label + " loss", loss, file["loss"], allowed(file["loss"], 1e-6));
  // In the folded form B holds the scale, so that gradients are others.
  if (format == "diffusers_folded") return;
  loss.backward();
  check_gradients(report, adapted, label, file);
  // The modules that the usual targets select are those of the adapter.
  cf::Lora fresh(fixtures.network("transformer"));
  cf::Generator generator = cf::seeded(0);
  fresh.add("fresh", cf::flux::lora_options(), generator);
  const auto own = adapted.lora.tensors("tested"), usual = fresh.tensors("fresh");
  const bool same = std::equal(own.begin(), own.end(), usual.begin(), usual.end(),
                               [](const auto& a, const auto& b) { return a.first == b.first; });
  report.state(label + " the usual targets", same, std::to_string(usual.size()) + " tensors");
}

}  // namespace

void check_lora(const Fixtures& fixtures, Report& report) {
  report.section("lora", [&] {
    Case file(fixtures, "lora/case.safetensors");
    // What read_lora reads within folders.
    for (const std::string name : {"peft/adapter_config.json", "peft/adapter_model.safetensors",
                                   "diffusers/pytorch_lora_weights.safetensors",
                                   "diffusers_folded/pytorch_lora_weights.safetensors"}) {
      fixtures / ("lora/" + name);
    }
    report.compare("lora txt_ids", at::zeros({file["encoder_hidden_states"].size(1), 3}),
                   file["txt_ids"], 0);
    for (const std::string format : {"peft", "diffusers", "diffusers_folded"}) {
      report.section("lora/" + format, [&] { check_adapter(fixtures, report, format, file); });
    }
    for (const std::string format : {"kohya", "xlabs"}) {
      report.section("lora/" + format, [&] {
        Adapted adapted(fixtures, format, format + "/lora.safetensors");
        adapted.lora.use("tested");
        const Tensor& wanted = file["output_" + format];
        report.compare("lora/" + format + " output", adapted.velocity(file), wanted,
                       allowed(wanted, 2e-5));
      });
    }
    file.expect_complete();
  });
}

}  // namespace parity
