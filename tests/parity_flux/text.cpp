// The text encoders: CLIP's pooled state without a projection, T5's last state.

#include <contraflow/network/clip.hpp>
#include <contraflow/network/clip_config.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/t5_config.hpp>

#include "parity_flux/report.hpp"

namespace parity {

void check_text(const Fixtures& fixtures, Report& report) {
  report.section("text", [&] {
    const at::NoGradGuard no_gradient;
    Case file(fixtures, "text/case.safetensors");
    const auto compare = [&](const std::string& name, const Tensor& got) {
      report.compare("text " + name, got, file[name], allowed(file[name]));
    };
    // The configuration of a published folder says that there is no projection.
    cf::ClipTextOptions options = cf::clip_text_options(fixtures.config("text/clip_l"));
    options.has_projection = false;
    cf::ClipText clip(options);
    auto weights = fixtures.weights("text/clip_l");
    cf::load_weights(clip, cf::clip_weights(weights), "clip_l");
    cf::T5Encoder t5(cf::t5_options(fixtures.config("text/t5")));
    cf::load_weights(t5, cf::t5_weights(fixtures.weights("text/t5")), "t5");
    const cf::ClipTextOutput out = clip.forward(file["clip_l.input_ids"]);
    compare("clip_l.last_hidden_state", out.last_hidden_state);
    for (const std::string window : {"", "short."}) {
      compare(window + "pooled_prompt_embeds", out.pooled);
      const Tensor ids = file[window + "t5.input_ids"];
      compare(window + "prompt_embeds", t5.forward(ids));
      compare(window + "text_ids", at::zeros({ids.size(1), 3}));
    }
    file.expect_complete();

    // As newer releases write the file.
    std::map<std::string, Tensor> without_prefix;
    for (const auto& [name, tensor] : weights) {
      const std::string prefix = name.starts_with("text_model.") ? "text_model." : "";
      without_prefix.emplace(name.substr(prefix.size()), tensor);
    }
    cf::ClipText other(options);
    cf::load_weights(other, cf::clip_weights(without_prefix), "clip_l");
    report.compare("text pooled_prompt_embeds, names without a prefix",
                   other.forward(file["clip_l.input_ids"]).pooled, out.pooled, 0);
  });
}

}  // namespace parity
