// The transformer: activations, output, loss, gradients, bfloat16; its normalisations and rotations
// alone.

#include "parity_flux/report.hpp"

namespace parity {

namespace {

struct Input {
  Tensor tokens;
  cf::TextCondition prompts;
  cf::FluxContext context;
};

Input input_of(Case& file) {
  return {file["hidden_states"],
          {file["encoder_hidden_states"], file["pooled_projections"]},
          {file["timestep"], file.has("guidance") ? file["guidance"] : Tensor(), file["img_ids"]}};
}

Tensor velocity(const cf::FluxNetwork& net, const Input& input,
                const cf::FluxRunOptions& run = {}) {
  return net.forward(input.tokens, input.prompts, input.context, run);
}

using Activations = std::map<std::string, Tensor>;

void add_streams(Activations& found, const std::string& name, const Tensor& text,
                 const Tensor& image) {
  found[name + ".0"] = text;
  found[name + ".1"] = image;
}

// The network once more, stage by stage.
Activations activations(const cf::FluxNetwork& net, const Input& input) {
  using cf::detail::modulated, cf::detail::normalised_layer;
  const auto chunks = [&](const std::string& name, const Tensor& embedding) {
    return part<cf::detail::Modulation>(net, name).forward(embedding);
  };
  Tensor image = part<cf::LoraLinear>(net, "x_embedder").forward(input.tokens);
  Tensor text = part<cf::LoraLinear>(net, "context_embedder").forward(input.prompts.sequence);
  const Tensor temb = net.embedded(input.context, input.prompts.pooled);
  const std::int64_t length = text.size(1);
  const cf::RotaryTable table = net.rotations(length, input.context.positions);
  Activations found{{"x_embedder", image},
                    {"context_embedder", text},
                    {"temb", temb},
                    {"rope.0", table.cos.repeat_interleave(2, 1)},
                    {"rope.1", table.sin.repeat_interleave(2, 1)}};
  const Tensor embedding = at::silu(temb);
  const std::string block = "transformer_blocks.0", single = "single_transformer_blocks.0";
  const auto m = chunks(block + ".norm1", embedding),
             c = chunks(block + ".norm1_context", embedding);
  const auto joint = part<cf::detail::FluxJointAttention>(net, block + ".attn")
                         .forward(modulated(normalised_layer(image), m[0], m[1]),
                                  modulated(normalised_layer(text), c[0], c[1]), table);
  add_streams(found, "double0.attn", joint.first, joint.second);
  for (std::size_t i = 0; i < net.blocks().size(); ++i) {
    std::tie(image, text) = net.blocks()[i]->forward(image, text, embedding, table);
    add_streams(found, "double" + std::to_string(i), text, image);
  }
  Tensor sequence = at::cat({text, image}, 1);
  const auto s = chunks(single + ".norm", embedding);
  found["single0.attn"] = part<cf::detail::FluxAttention>(net, single + ".attn")
                              .forward(modulated(normalised_layer(sequence), s[0], s[1]), table);
  const auto behind = [&] { return sequence.narrow(1, length, sequence.size(1) - length); };
  for (std::size_t i = 0; i < net.single_blocks().size(); ++i) {
    sequence = net.single_blocks()[i]->forward(sequence, embedding, table);
    add_streams(found, "single" + std::to_string(i), sequence.narrow(1, 0, length), behind());
  }
  const auto last = chunks("norm_out", embedding);
  found["norm_out"] = modulated(normalised_layer(behind()), last[1], last[0]);
  return found;
}

// All gradients of the file, by one backward pass, with or without recomputation.
void check_gradients(Report& report, const std::shared_ptr<cf::FluxNetwork>& net, Case& file,
                     const std::string& label, bool recompute) {
  cf::set_trainable(*net, true);
  net->zero_grad();
  Input input = input_of(file);
  std::map<std::string, Tensor*> leaves{{"hidden_states", &input.tokens},
                                        {"encoder_hidden_states", &input.prompts.sequence},
                                        {"pooled_projections", &input.prompts.pooled}};
  for (auto& [name, leaf] : leaves) *leaf = leaf->clone().requires_grad_();
  const Tensor loss =
      (velocity(*net, input, {.recompute = recompute}) - file["target"]).square().mean();
  loss.backward();
  report.compare(label + " loss", loss, file["loss"], allowed(file["loss"], 1e-6));
  const auto compare = [&](const std::string& name, const Tensor& gradient) {
    const Tensor& wanted = file["grad/" + name];
    report.compare(label + " grad " + name, gradient, wanted,
                   std::max(1e-6, 1e-5 * largest(wanted)));
  };
  for (const auto& [name, leaf] : leaves) compare(name, leaf->grad());
  for (const auto& item : net->named_parameters()) {
    const Tensor gradient = item.value().grad();
    if (file.has("grad/" + item.key())) compare(item.key(), gradient);
    const Tensor& wanted = file["grad_norm/" + item.key()];
    report.compare(label + " grad_norm " + item.key(), gradient.norm(), wanted,
                   1e-4 * std::max(1e-3, largest(wanted)));
  }
  cf::set_trainable(*net, false);
}

Input in(const Input& input, at::ScalarType dtype) {
  return {input.tokens.to(dtype),
          {input.prompts.sequence.to(dtype), input.prompts.pooled.to(dtype)},
          input.context};
}

void check_wide(const Fixtures& fixtures, Report& report, Case& file, const std::string& folder,
                const std::string& label) {
  Input input = in(input_of(file), at::kDouble);
  const auto net = fixtures.network(folder, {.dtype = at::kDouble});
  const auto change = [&](auto&& f) {
    input.context.t = f(input.context.t);
    if (input.context.guidance.defined()) input.context.guidance = f(input.context.guidance);
  };
  // Sines of time and rotations are float32 in it, and another processor rounds them otherwise.
  change([](const Tensor& x) { return x.to(at::kDouble); });
  report.compare(label + " output_float64", velocity(*net, input), file["output_float64"], 1e-6);
  change([](const Tensor& x) { return (x.to(at::kBFloat16) * 1000).to(at::kDouble) / 1000; });
  report.compare(label + " output_bf16_conditioning_float64", velocity(*net, input),
                 file["output_bf16_conditioning_float64"], 1e-6);
}

void check_case(const Fixtures& fixtures, Report& report, const std::string& folder,
                const std::string& name) {
  const std::string label = folder + "/" + name;
  Case file(fixtures, folder + "/case_" + name + ".safetensors");
  const auto net = fixtures.network(folder);
  cf::set_trainable(*net, false);
  const Input input = input_of(file);
  report.compare(label + " txt_ids", at::zeros({input.prompts.sequence.size(1), 3}),
                 file["txt_ids"], 0);
  for (const auto& [key, value] : activations(*net, input)) {
    if (!file.has("act/" + key)) continue;
    const Tensor& wanted = file["act/" + key];
    report.compare(label + " act " + key, value, wanted, allowed(wanted));
  }
  report.compare(label + " output", velocity(*net, input), file["output"], allowed(file["output"]));
  check_wide(fixtures, report, file, folder, label);
  // Two computations in bfloat16 round differently, each by the figure of the manifest.
  const double rounding = 2 * fixtures.noise(label + "_bf16");
  const auto half = fixtures.network(folder, {.dtype = at::kBFloat16});
  const Tensor rounded = velocity(*half, in(input, at::kBFloat16));
  report.state(label + " dtype in bfloat16", rounded.scalar_type() == at::kBFloat16,
               c10::toString(rounded.scalar_type()));
  report.compare(label + " output_bf16", rounded, file["output_bf16"], rounding);
  report.compare(label + " bfloat16 against float64", rounded,
                 file["output_bf16_conditioning_float64"], rounding);
  check_gradients(report, net, file, label, false);
  check_gradients(report, net, file, label + " recomputed", true);
  file.expect_complete();
}

// The outputs of one of diffusers' normalisations, in its order.
std::vector<Tensor> norm_outputs(const cf::FluxNetwork& net, const std::string& name, Case& file) {
  using cf::detail::modulated;
  if (name.find(".attn.") != std::string::npos) {
    return {part<cf::detail::HeadNorm>(net, name).forward(file["heads"])};
  }
  const cf::detail::Normalised normalised = cf::detail::normalised_layer(file["tokens"]);
  const Tensor embedding = at::silu(file["temb"]);
  if (name.ends_with(".norm2")) {
    const Tensor none = at::zeros_like(embedding);
    return {modulated(normalised, none, none)};
  }
  const auto m = part<cf::detail::Modulation>(net, name).forward(embedding);
  // Scale before shift, where nothing else is modulated.
  if (m.size() == 2) return {modulated(normalised, m[1], m[0])};
  std::vector<Tensor> outputs{modulated(normalised, m[0], m[1])};
  outputs.insert(outputs.end(), m.begin() + 2, m.end());
  return outputs;
}

}  // namespace

void check_transformer(const Fixtures& fixtures, Report& report) {
  for (const std::string folder : {"transformer", "transformer_schnell"}) {
    report.section(folder, [&] {
      for (const std::string& name : fixtures.names(folder, "case_")) {
        report.section(folder + "/" + name, [&] { check_case(fixtures, report, folder, name); });
      }
    });
  }
}

void check_norms(const Fixtures& fixtures, Report& report) {
  report.section("norms", [&] {
    const at::NoGradGuard no_gradient;
    Case file(fixtures, "transformer/norms.safetensors");
    const auto net = fixtures.network("transformer");
    const auto tensors = file.tensors();
    for (const auto& [key, value] : tensors) {
      if (!key.starts_with("out/")) continue;
      const std::size_t dot = key.rfind('.');
      const auto outputs = norm_outputs(*net, key.substr(4, dot - 4), file);
      const std::size_t index = std::stoul(key.substr(dot + 1));
      if (index >= outputs.size()) throw cf::Error("norms", "known outputs", key);
      report.compare("norms " + key.substr(4), outputs[index], file[key],
                     1e-5 * std::min(1.0, largest(file[key])));
    }
    const auto half = fixtures.network("transformer", {.dtype = at::kBFloat16});
    report.compare("norms in bfloat16, rounded once",
                   part<cf::detail::HeadNorm>(*half, "transformer_blocks.0.attn.norm_q")
                       .forward(file["rms_input_bf16"]),
                   file["rms_output_bf16"], 0);
    file.expect_complete();
  });
}

void check_positions(const Fixtures& fixtures, Report& report) {
  report.section("rope", [&] {
    for (const std::string& name : fixtures.names("rope", "")) {
      Case file(fixtures, "rope/" + name + ".safetensors");
      const Tensor axes = file["axes"].to(at::kLong).contiguous();
      const auto* channels = cf::data_of<const std::int64_t>(axes);
      const auto table = cf::rotary_table(file["ids"], {channels, std::size_t(axes.numel())});
      report.compare("rope cos", table.cos.repeat_interleave(2, 1), file["cos"], 6e-8);
      report.compare("rope sin", table.sin.repeat_interleave(2, 1), file["sin"], 6e-8);
      report.compare("rope rotated", cf::rotated(file["x"], table), file["rotated"], 1e-6);
      const Tensor half = cf::rotated(file["x"].to(at::kBFloat16), table);
      report.compare("rope rotated_bf16", half, file["rotated_bf16"], 0.04);
      file.expect_complete();
    }
  });
}

}  // namespace parity
