// The transformer: activations, output, loss, gradients, bfloat16; its normalisations alone.

#include <contraflow/model/mmdit.hpp>
#include <contraflow/network/vae.hpp>
#include <contraflow/network/vae_config.hpp>
#include <contraflow/sd3/config.hpp>

#include "parity_sd3/report.hpp"

namespace parity {

namespace {

std::shared_ptr<cf::MmditNetwork> network(const Fixtures& fixtures,
                                          const cf::Placement& placement = {}) {
  auto net = std::make_shared<cf::MmditNetwork>(cf::sd3::mmdit_options(fixtures.config("mmdit")));
  cf::load_weights(*net, fixtures.weights("mmdit"), "mmdit", placement);
  return net;
}

struct Input {
  Tensor x_t, t;
  cf::TextCondition condition;
};

Input input_of(Case& file) {
  // In float64, so that the network's time is the file's to the last bit.
  return {file["hidden_states"],
          file["timestep"].to(at::kDouble) / 1000,
          {file["encoder_hidden_states"], file["pooled_projections"]}};
}

// The network once more, stage by stage.
std::map<std::string, Tensor> activations(const cf::MmditNetwork& net, const Input& input) {
  using cf::detail::modulated, cf::detail::normalised_layer;
  std::map<std::string, Tensor> found;
  const cf::MmditOptions& options = net.options();
  const std::int64_t rows = input.x_t.size(2) / options.patch_size;
  const std::int64_t columns = input.x_t.size(3) / options.patch_size;
  const Tensor patches = part<cf::Conv2d>(net, "pos_embed.proj").forward(input.x_t);
  Tensor image = patches.flatten(2).transpose(1, 2) + net.positions(rows, columns);
  Tensor text = part<cf::LoraLinear>(net, "context_embedder").forward(input.condition.sequence);
  const Tensor temb = net.embedded(input.t, input.condition.pooled);
  const Tensor embedding = at::silu(temb);
  found = {{"pos_embed", image}, {"context_embedder", text}, {"temb", temb}};
  for (std::int64_t i = 0; i < options.num_layers; ++i) {
    const std::string block = "block" + std::to_string(i);
    const std::string name = "transformer_blocks." + std::to_string(i);
    const auto chunks = [&](const std::string& norm) {
      return part<cf::detail::Modulation>(net, name + norm).forward(embedding);
    };
    const bool is_last = i + 1 == options.num_layers;
    const auto m = chunks(".norm1"), c = chunks(".norm1_context");
    const cf::detail::Normalised normalised = normalised_layer(image);
    const auto joint = part<cf::detail::JointAttention>(net, name + ".attn")
                           .forward(modulated(normalised, m[0], m[1]),
                                    modulated(normalised_layer(text), c[is_last], c[!is_last]));
    found[block + (is_last ? ".attn" : ".attn.0")] = joint.first;
    if (!is_last) found[block + ".attn.1"] = joint.second;
    if (m.size() == 9) {
      found[block + ".attn2"] = part<cf::detail::ImageAttention>(net, name + ".attn2")
                                    .forward(modulated(normalised, m[6], m[7]));
    }
    std::tie(image, text) = net.blocks()[std::size_t(i)]->forward(image, text, embedding);
    found[block + ".1"] = image;
    if (!is_last) found[block + ".0"] = text;
  }
  const auto m = part<cf::detail::Modulation>(net, "norm_out").forward(embedding);
  found["norm_out"] = modulated(normalised_layer(image), m[1], m[0]);
  return found;
}

// A gradient that nothing reached is zero.
Tensor gradient_of(const Tensor& x) { return x.grad().defined() ? x.grad() : at::zeros_like(x); }

// All gradients of the file, by one backward pass, with or without recomputation.
void check_gradients(const Fixtures& fixtures, Report& report, Case& file, const std::string& label,
                     bool recompute) {
  const auto net = network(fixtures);
  cf::set_trainable(*net, true);
  cf::Mmdit model(net, {.recompute = recompute});
  Input input = input_of(file);
  std::map<std::string, Tensor> leaves{{"hidden_states", input.x_t.clone()},
                                       {"encoder_hidden_states", input.condition.sequence.clone()},
                                       {"pooled_projections", input.condition.pooled.clone()}};
  for (auto& [name, leaf] : leaves) leaf.requires_grad_();
  const Tensor out = model(leaves.at("hidden_states"), input.t,
                           {leaves.at("encoder_hidden_states"), leaves.at("pooled_projections")});
  const Tensor loss = (out - file["target"]).square().mean();
  loss.backward();
  report.compare(label + " loss", loss, file["loss"], fixtures.allowed(file["loss"]));
  for (const auto& item : net->named_parameters()) leaves.emplace(item.key(), item.value());
  const auto parameters = net->named_parameters();
  double steepest = 0;
  for (const auto& [name, leaf] : leaves) steepest = std::max(steepest, largest(gradient_of(leaf)));
  // Where a gradient is small beside the others, it is a difference of larger numbers.
  const auto allowed = [&](const Tensor& wanted) {
    return std::max(fixtures.allowed_gradient(wanted), 1e-6 * steepest);
  };
  for (const auto& [name, leaf] : leaves) {
    const Tensor gradient = gradient_of(leaf);
    if (!parameters.contains(name) || file.has("grad/" + name)) {
      const Tensor& wanted = file["grad/" + name];
      report.compare(label + " grad " + name, gradient, wanted, allowed(wanted));
    }
    if (!parameters.contains(name)) continue;
    const Tensor& wanted = file["grad_norm/" + name];
    report.compare(label + " grad_norm " + name, gradient.norm(), wanted, allowed(wanted));
  }
}

// @param prefix of the names of the checks
void check_case(const Fixtures& fixtures, Report& report, const std::string& size,
                const std::string& prefix = "") {
  const std::string label = "mmdit/" + size;
  Case file(fixtures, "mmdit/case_" + size + ".safetensors");
  {
    const at::NoGradGuard no_gradient;
    const Input input = input_of(file);
    const auto net = network(fixtures);
    for (const auto& [name, value] : activations(*net, input)) {
      if (!file.has("act/" + name)) continue;
      const Tensor& wanted = file["act/" + name];
      report.compare(prefix + label + " " + name, value, wanted, fixtures.allowed(wanted, label));
    }
    const Tensor& output = file["output"];
    report.compare(prefix + label + " output", cf::Mmdit(net)(input.x_t, input.t, input.condition),
                   output, fixtures.allowed(output, label));
    // Two computations in bfloat16 round differently, each by the figure of the manifest.
    const double rounding = 2 * fixtures.noise(label + "_bf16");
    const auto half = network(fixtures, {.dtype = at::kBFloat16});
    const Tensor rounded = cf::Mmdit(half)(input.x_t, input.t, input.condition);
    report.compare(prefix + label + " output in bfloat16", rounded, output, rounding);
    report.compare(prefix + label + " output_bf16", rounded, file["output_bf16"], rounding);
  }
  check_gradients(fixtures, report, file, prefix + label, false);
  check_gradients(fixtures, report, file, prefix + label + " recomputed", true);
  file.expect_complete();
}

// The outputs of one of diffusers' adaptive normalisations, in its order.
std::vector<Tensor> adaptive_norm(const std::vector<Tensor>& m, const Tensor& x) {
  using cf::detail::modulated;
  const cf::detail::Normalised normalised = cf::detail::normalised_layer(x);
  // Scale before shift, where nothing else is modulated.
  if (m.size() == 2) return {modulated(normalised, m[1], m[0])};
  std::vector<Tensor> outputs{modulated(normalised, m[0], m[1]), m[2], m[3], m[4], m[5]};
  if (m.size() == 9) outputs.insert(outputs.end(), {modulated(normalised, m[6], m[7]), m[8]});
  return outputs;
}

std::vector<Tensor> norm_outputs(const cf::MmditNetwork& net, const cf::Vae& vae,
                                 const std::string& name, Case& file) {
  if (name == "vae.decoder.mid_block.attentions.0") {
    return {part<cf::detail::VaeAttention>(vae, name.substr(4)).forward(file["image"])};
  }
  if (name.starts_with("vae.")) {
    return {part<cf::GroupNorm>(vae, name.substr(4)).forward(file["image"])};
  }
  if (name.ends_with(".norm_q") || name.ends_with(".norm_k")) {
    return {part<cf::RmsNorm>(net, name).forward(file["heads"])};
  }
  if (name.ends_with(".norm2")) {
    const Tensor x = file["tokens"], none = at::zeros({x.size(0), x.size(2)});
    return {cf::detail::modulated(cf::detail::normalised_layer(x), none, none)};
  }
  const Tensor embedding = at::silu(file["temb"]);
  return adaptive_norm(part<cf::detail::Modulation>(net, name).forward(embedding), file["tokens"]);
}

}  // namespace

void check_mmdit(const Fixtures& fixtures, Report& report) {
  report.section("pos_embed table", [&] {
    const Tensor wanted = fixtures.weights("mmdit").at("pos_embed.pos_embed");
    const auto options = cf::sd3::mmdit_options(fixtures.config("mmdit"));
    report.compare("pos_embed table", cf::position_table(options), wanted, 1e-6);
  });
  for (const char* size : {"square", "wide"}) {
    report.section(std::string("mmdit/") + size, [&] { check_case(fixtures, report, size); });
  }
}

void check_other_kinds(Report& report) {
  for (const std::string kind : {"3_medium", "3_5_large"}) {
    report.section(kind, [&] {
      check_case({CONTRAFLOW_TEST_DATA "/sd3_kinds/" + kind, {}}, report, "wide", kind + " ");
    });
  }
}

void check_norms(const Fixtures& fixtures, Report& report) {
  report.section("norms", [&] {
    const at::NoGradGuard no_gradient;
    Case file(fixtures, "mmdit/norms.safetensors");
    const auto net = network(fixtures);
    cf::Vae vae(cf::vae_options(fixtures.config("vae")));
    cf::load_weights(vae, cf::vae_weights(fixtures.weights("vae")), "vae");
    const auto tensors = file.tensors();
    for (const auto& [key, value] : tensors) {
      if (!key.starts_with("out/")) continue;
      const std::size_t dot = key.rfind('.');
      const auto outputs = norm_outputs(*net, vae, key.substr(4, dot - 4), file);
      const std::size_t index = std::stoul(key.substr(dot + 1));
      if (index >= outputs.size()) throw cf::Error("norms", "known outputs", key);
      report.compare("norms " + key.substr(4), outputs[index], file[key],
                     fixtures.allowed(file[key]));
    }
    file.expect_complete();
  });
}

}  // namespace parity
