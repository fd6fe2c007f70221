#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <contraflow/io/png.hpp>

#include "run.hpp"
#include "support/files.hpp"
#include "support/format.hpp"
#include "support/html.hpp"
#include "support/table.hpp"

/// What a run leaves for people and for programs.
namespace scenes_example {

using Json = nlohmann::ordered_json;
namespace html = support::html;

inline Json to_json(const StrictScore& score) {
  Json json{{"overall", score.overall}};
  for (const scenes::Category category : scenes::categories) {
    json[scenes::name_of(category)] = score.by_category[std::size_t(category)];
  }
  return json;
}

/// What of the settings a person may choose.
inline Json to_json(const Settings& s) {
  return {{"prompts", s.prompts},
          {"group_size", s.group_size},
          {"gradient_steps", s.gradient_steps},
          {"ahead", s.ahead},
          {"learning_rate", s.learning_rate},
          {"decay_steps", s.decay_steps},
          {"kl", s.kl},
          {"times", s.times},
          {"informative_only", s.informative_only},
          {"shared_noise", s.shared_noise},
          {"beta", s.beta},
          {"advantage_clip", s.advantage_clip},
          {"clip_range", s.clip_range},
          {"transitions", s.transitions}};
}

inline Json to_json(const Run& run) {
  Json curve = Json::array();
  for (const Point& point : run.curve) {
    curve.push_back({{"epoch", point.epoch},
                     {"evaluations", point.evaluations},
                     {"seconds", point.seconds},
                     {"strict", to_json(point.strict)}});
  }
  const Settings& s = run.settings;
  return {{"method", name_of(s.method)},
          {"seed", s.seed},
          {"epochs", run.curve.back().epoch},
          {"gradient_steps", run.curve.back().epoch * double(s.gradient_steps)},
          {"strict", to_json(run.curve.back().strict)},
          {"best", best_of(run)},
          {"diversity", run.diversity},
          {"evaluations", run.curve.back().evaluations},
          {"seconds", run.curve.back().seconds},
          {"settings", to_json(s)},
          {"curve", std::move(curve)}};
}

/// The first prompts of each category, so many of each; for two rows of pictures a category.
inline Tensor shown_prompts(std::int64_t of_each) {
  const Tensor all = scenes::evaluation_prompts(per_category);
  return all.view({std::int64_t(scenes::categories.size()), per_category})
      .narrow(1, 0, of_each)
      .reshape({-1});
}

/// Pictures of scenes in a row each for @p columns of them, light where they answer the prompt and
/// under a red bar where they do not.
inline Tensor sheet(const Tensor& x0, const Tensor& numbers, std::int64_t columns) {
  constexpr std::int64_t cell = 18, bar = 4, gap = 6;
  constexpr std::int64_t side = scenes::side * cell;
  const Tensor strict = scenes::judge(scenes::catalogue().prompts(), numbers, x0).strict;
  const std::int64_t rows = x0.size(0) / columns;
  const std::int64_t pitch_y = side + bar + gap, pitch_x = side + gap;
  Tensor image = at::ones({3, rows * pitch_y + gap, columns * pitch_x + gap});
  const Tensor right = at::tensor({0.18F, 0.62F, 0.32F}), wrong = at::tensor({0.82F, 0.2F, 0.18F});
  for (std::int64_t i = 0; i < x0.size(0); ++i) {
    const std::int64_t y = gap + i / columns * pitch_y, x = gap + i % columns * pitch_x;
    image.narrow(1, y, side).narrow(2, x, side).copy_(scenes::picture(x0[i], cell));
    const Tensor& colour = strict[i].item<double>() > 0 ? right : wrong;
    image.narrow(1, y + side, bar).narrow(2, x, side).copy_(colour.view({3, 1, 1}));
  }
  return image;
}

/// Writes pictures of the same prompts and noise before and after.
inline void write_pictures(const std::filesystem::path& folder, const SceneFlow& base,
                           const SceneFlow& model) {
  constexpr std::int64_t columns = 10;
  const Tensor numbers = shown_prompts(columns);
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < numbers.numel(); ++i) {
    texts.push_back(
        scenes::catalogue().prompts()[std::size_t(numbers[i].item<std::int64_t>())].text());
  }
  const Tensor before = drawn(base, numbers, 1), after = drawn(model, numbers, 1);
  cf::write_png(folder / "before.png", sheet(before, numbers, columns));
  cf::write_png(folder / "after.png", sheet(after, numbers, columns));
  std::string body = html::element("h1", "Scenes before and after") +
                     html::paragraph(
                         "The same prompts and noise, without guidance; a green bar "
                         "under a scene that answers its prompt, a red one under one "
                         "that does not.");
  for (const scenes::Category category : scenes::categories) {
    const auto first = std::int64_t(category) * columns;
    const std::string name = scenes::name_of(category);
    body += html::element("h2", name);
    for (const auto& [when, x0] : {std::pair("before", before), std::pair("after", after)}) {
      const std::string file = name + "-" + when + ".png";
      cf::write_png(folder / file, sheet(x0.narrow(0, first, columns),
                                         numbers.narrow(0, first, columns), columns));
      body += "<img src=\"" + file + "\" alt=\"" + name + " " + when + "\" width=\"100%\">";
    }
    body += html::paragraph(
        support::joined({texts.begin() + first, texts.begin() + first + columns}, "; "));
  }
  support::write_text(folder / "pictures.html", html::page("Scenes before and after", body));
}

/// A row of a table: a name, the overall score, and that of each category.
inline std::vector<std::string> row_of(const std::string& name, const StrictScore& score) {
  std::vector<std::string> row{name, support::fixed(score.overall, 3)};
  for (const double one : score.by_category) row.push_back(support::fixed(one, 2));
  return row;
}
inline std::vector<std::string> header_of(const std::string& name) {
  std::vector<std::string> header{name, "overall"};
  for (const scenes::Category category : scenes::categories) {
    header.emplace_back(scenes::name_of(category));
  }
  return header;
}

}  // namespace scenes_example
