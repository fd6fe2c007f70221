// The text encoders and the tokenizers.

#include <fstream>

#include <contraflow/network/clip.hpp>
#include <contraflow/network/clip_config.hpp>
#include <contraflow/network/t5.hpp>
#include <contraflow/network/t5_config.hpp>
#include <contraflow/sd3/encode_prompts.hpp>
#include <contraflow/text/clip_tokenizer.hpp>
#include <contraflow/text/t5_tokenizer.hpp>

#include "parity_sd3/report.hpp"

namespace parity {

namespace {

cf::ClipText clip_of(const Fixtures& fixtures, const std::string& name) {
  cf::ClipText net(cf::clip_text_options(fixtures.config("text/" + name)));
  cf::load_weights(net, cf::clip_weights(fixtures.weights("text/" + name)), name);
  return net;
}

void check_encoders(const Fixtures& fixtures, Report& report) {
  const at::NoGradGuard no_gradient;
  Case file(fixtures, "text/case.safetensors");
  const auto compare = [&](const std::string& name, const Tensor& got, const std::string& label) {
    report.compare("text " + name, got, file[name], fixtures.allowed(file[name], "text/" + label));
  };
  std::vector<cf::ClipTextOutput> clip;
  for (const std::string name : {"clip_l", "clip_g"}) {
    const cf::ClipText net = clip_of(fixtures, name);
    const cf::ClipTextOutput out = net.forward(file[name + ".input_ids"]);
    compare(name + ".pooled", out.pooled, "pooled_prompt_embeds");
    compare(name + ".penultimate", out.penultimate, "prompt_embeds");
    compare(name + ".last_hidden_state", out.last_hidden_state, "prompt_embeds");
    clip.push_back(out);
    if (!file.has("norm." + name)) continue;
    compare("norm." + name,
            part<cf::LayerNorm>(net, "text_model.final_layer_norm")
                .forward(file["norm." + name + ".input"]),
            "norm");
  }
  cf::T5Encoder t5(cf::t5_options(fixtures.config("text/t5")));
  cf::load_weights(t5, cf::t5_weights(fixtures.weights("text/t5")), "t5");
  const Tensor sequence = t5.forward(file["t5.input_ids"]);
  compare("t5.last_hidden_state", sequence, "prompt_embeds");
  compare("norm.t5",
          part<cf::RmsNorm>(t5, "encoder.final_layer_norm").forward(file["norm.t5.input"]), "norm");
  const cf::TextCondition prompts = cf::sd3::combined(clip[0], clip[1], sequence);
  compare("prompt_embeds", prompts.sequence, "prompt_embeds");
  compare("pooled_prompt_embeds", prompts.pooled, "pooled_prompt_embeds");
  file.expect_complete();
}

std::string ids_text(const std::vector<std::int64_t>& ids) {
  std::string text;
  for (const std::int64_t id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

// A line a caption; ids have to be equal.
template <class Encode>
void check_ids(Report& report, const std::string& name, const nlohmann::json& cases,
               Encode&& encode) {
  if (!cases.is_array() || cases.empty()) throw cf::Error(name, "a list of cases", "none");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto wanted = cases[i].at("ids").get<std::vector<std::int64_t>>();
    const auto got = encode(cases[i].at("text").get<std::string>(), wanted);
    const bool equal = got == wanted;
    report.state(name + " case " + std::to_string(i), equal,
                 std::to_string(wanted.size()) + " ids" +
                     (equal ? "" : ": " + ids_text(got) + " instead of " + ids_text(wanted)));
  }
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw cf::Error(path.string(), "a readable file", "none");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && !line.starts_with("#version")) lines.push_back(line);
  }
  return lines;
}

// The public merges: beside the cases, or in the copy among the tests.
std::filesystem::path merges_path(const Fixtures& fixtures) {
  const auto beside = fixtures.tokenizers() / "merges.txt";
  if (std::filesystem::exists(beside)) return beside;
  return CONTRAFLOW_TEST_DATA "/sd3/tokenizer/merges.txt";
}

}  // namespace

void check_text(const Fixtures& fixtures, Report& report) {
  report.section("text", [&] { check_encoders(fixtures, report); });
}

void check_tokenizers(const Fixtures& fixtures, Report& report) {
  report.section("tokenizer clip", [&] {
    const cf::Settings file(fixtures.tokenizers() / "clip_ids.json");
    const auto tokenizer = cf::ClipTokenizer::from_merges(
        lines_of(merges_path(fixtures)),
        {.pad = file.text("pad"), .length = file.integer("max_length")});
    check_ids(report, "tokenizer clip", file.json().at("cases"),
              [&](const std::string& text, const auto&) { return tokenizer.encode(text).ids; });
  });
  report.section("tokenizer t5", [&] {
    const cf::Settings file(fixtures.tokenizers() / "t5_ids.json");
    check_ids(
        report, "tokenizer t5", file.json().at("cases"),
        [&](const std::string& text, const auto& wanted) {
          const auto length = std::int64_t(wanted.size());
          return cf::T5Tokenizer(fixtures.tokenizers() / "t5_tiny.model", length).encode(text).ids;
        });
  });
}

}  // namespace parity
