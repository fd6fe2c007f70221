// Adapters in all formats: outputs with and without, gradients.

#include <contraflow/model/mmdit.hpp>
#include <contraflow/network/lora.hpp>
#include <contraflow/pipeline/lora_files.hpp>
#include <contraflow/sd3/config.hpp>

#include "parity_sd3/report.hpp"

namespace parity {

namespace {

void check_adapter(const Fixtures& fixtures, Report& report, const std::string& format,
                   Case& file) {
  auto net = std::make_shared<cf::MmditNetwork>(cf::sd3::mmdit_options(fixtures.config("mmdit")));
  cf::load_weights(*net, fixtures.weights("mmdit"), "mmdit");
  cf::Mmdit model(net);
  cf::Lora lora(net);
  lora.add("tested", cf::read_lora(fixtures / ("lora/" + format)), format);
  lora.set_trainable("tested", true);
  const Tensor t = file["timestep"].to(at::kDouble) / 1000;
  const auto output = [&] {
    return model(file["hidden_states"], t,
                 {file["encoder_hidden_states"], file["pooled_projections"]});
  };
  const std::string label = "lora/" + format;
  const double allowed = fixtures.allowed(file["output"], "lora/output");
  report.compare(label + " output_without_adapter", output(), file["output_without_adapter"],
                 allowed);
  lora.use("tested");
  const Tensor adapted = output();
  report.compare(label + " output", adapted, file["output"], allowed);
  const Tensor loss = (adapted - file["target"]).square().mean();
  report.compare(label + " loss", loss, file["loss"], fixtures.allowed(file["loss"]));
  // In the folded form B holds the scale, so that gradients are others.
  if (format == "diffusers_folded") return;
  loss.backward();
  for (const auto& [name, tensor] : lora.tensors("tested")) {
    const Tensor gradient = tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
    const Tensor& norm = file["grad_norm/" + name];
    report.compare(label + " grad_norm " + name, gradient.norm(), norm,
                   fixtures.allowed_gradient(norm));
    if (!file.has("grad/" + name)) continue;
    const Tensor& wanted = file["grad/" + name];
    report.compare(label + " grad " + name, gradient, wanted, fixtures.allowed_gradient(wanted));
  }
}

}  // namespace

void check_lora(const Fixtures& fixtures, Report& report) {
  report.section("lora", [&] {
    Case file(fixtures, "lora/case.safetensors");
    for (const char* format : {"peft", "diffusers", "diffusers_folded"}) {
      report.section(std::string("lora/") + format,
                     [&] { check_adapter(fixtures, report, format, file); });
    }
    file.expect_complete();
  });
}

}  // namespace parity
